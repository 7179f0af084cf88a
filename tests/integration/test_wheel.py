"""What a user installs: the wheel, outside the repository, with and without the packages that compute."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.runs import done
from tests.served import served

SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
SOURCES = ["raypipe", "model", "index", "configs", "pyproject.toml", "README.md", "LICENSE"]
EXTRAS = "pip install 'raypipe[cpu]' (or 'raypipe[gpu]' with an NVIDIA GPU)"


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "tree").mkdir(exist_ok=True)
            shutil.copy(source, folder / "tree" / name)
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(folder), str(folder / "tree")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("raypipe-*.whl")
    return path


def new_environment(folder: Path, wheel: Path) -> Path:
    """A virtual environment with the wheel and nothing else; returns its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)], check=True)
    return folder / "bin"


def requirements(found: metadata.Distribution, extras: set[str], known: dict[str, metadata.Distribution]) -> None:
    """Add to `known` what a distribution needs, and what that needs."""
    for line in found.requires or []:
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            canonical = re.sub(r"[-_.]+", "-", need.name).lower()
            if canonical not in known:
                known[canonical] = metadata.distribution(need.name)
                requirements(known[canonical], need.extras, known)


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment as `pip install raypipe` makes it: no torch, ray or faiss.

    Its packages are links to those of this environment, so that nothing is fetched.
    """
    folder = tmp_path_factory.mktemp("plain") / "venv"
    programs = new_environment(folder, wheel)
    needed: dict[str, metadata.Distribution] = {}
    # As the wheel says it: what is installed here may be older.
    (installed,) = metadata.distributions(name="raypipe", path=[str(folder / SITE)])
    requirements(installed, set(), needed)
    for distribution in needed.values():
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            target = folder / SITE / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))))
    return programs


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment as `pip install raypipe[cpu]` makes it."""
    folder = tmp_path_factory.mktemp("full") / "venv"
    programs = new_environment(folder, wheel)
    # A path that stands in a .pth file comes after the environment's own, and its .pth files are not read: the
    # editable installation of this repository stays out.
    (folder / SITE / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return programs


def test_content(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    version = metadata.version("raypipe")
    assert {name.split("/")[0] for name in names} == {"raypipe", "model", "index", f"raypipe-{version}.dist-info"}
    data = ["registry.toml", "nano/config.json", "nano/model.safetensors", "nano/vocab.txt"]
    assert {f"model/{name}" for name in data} <= names
    assert {"raypipe/demo_data/demo.fasta.gz", "raypipe/demo_data/annotations.tsv.gz"} <= names
    assert "raypipe/configs/embed.yaml" in names
    assert f"raypipe-{version}.dist-info/licenses/LICENSE" in names
    assert not any("__pycache__" in name or "/tests/" in name for name in names)


def test_plain_installation_is_the_client(plain: Path, tmp_path: Path) -> None:
    """It reads, ingests and asks; what it cannot do it says, with the command that mends it."""
    (tmp_path / "in.fa").write_text(">a\nGGCUACGAUCGAUGCAUCG\n>b\nACGUACGUAC\n")
    raypipe = str(plain / "raypipe")
    for arguments in (["--help"], ["--version"], ["ingest", "in.fa", "-o", "atlas"], ["info", "atlas"]):
        run = done([raypipe, *arguments], cwd=tmp_path)
        assert run.code == 0, run.err
    counted = done([raypipe, "sql", "atlas", "SELECT count(*) AS n FROM records"], cwd=tmp_path)
    assert counted.out == "n\n2\n"

    for arguments, missing in (
        (["embed", "atlas"], "ray"),
        (["embed", "atlas", "--executor", "inline"], "torch"),
        (["fill-mask", "GG<mask>C"], "torch"),
    ):
        run = done([raypipe, *arguments], cwd=tmp_path)
        assert run.code == 1
        assert run.lines[-1] == f"raypipe: {missing} is not installed, and this needs it; run: {EXTRAS}"
        assert "Traceback" not in run.err

    found = done([raypipe, "doctor"], cwd=tmp_path)
    assert found.code == 1
    assert re.search(r"^- torch +not installed: needed to embed; pip install", found.out, re.MULTILINE)
    assert re.search(r"^! faiss +FAISS is not installed; run: pip install 'raypipe\[cpu\]'", found.out, re.MULTILINE)


@pytest.fixture(scope="module")
def atlas(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with vectors and an index."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.fa").write_text(">a\nGGCUACGAUCGAUGCAUCG\n>b\nACGUACGUAC\n")
    for verb in (["embed", "in.fa", "-o", "atlas", "--executor", "inline"], ["index", "atlas"]):
        run = done([str(full / "raypipe"), *verb], cwd=folder)
        assert run.code == 0, run.err
    return folder / "atlas"


ASKING = """
import sys
import raypipe

with raypipe.connect(sys.argv[1]) as there:
    hits = there.search("GGCUACGAUCGAUGCAUCG", k=2)
    assert [row["id"] for row in hits][0] == "a" and there.embed("ACGU").shape == (1, 512)
    hits.write("hits.parquet")
    for ask in (hits.to_pandas, hits.to_polars, hits.to_anndata):
        try:
            ask()
        except raypipe.RaypipeError as error:
            print(error)
try:
    raypipe.connect(sys.argv[2]).embed("ACGU")
except raypipe.AtlasError as error:
    print(error)
"""


def test_plain_installation_asks_a_server(plain: Path, atlas: Path, tmp_path: Path) -> None:
    """For the index and the model of which it has no room; what it misses itself it says."""
    with served(atlas) as url:
        run = done([str(plain / "python"), "-c", ASKING, url, str(atlas)], cwd=tmp_path)
        searched = done([str(plain / "raypipe"), "search", url, "GGCUACGAUCGAUGCAUCG", "-k", "1"], cwd=tmp_path)
    assert run.code == 0, run.err
    assert run.out.splitlines() == [
        "pandas is not installed; run: pip install pandas",
        "polars is not installed; run: pip install polars",
        "anndata is not installed; run: pip install 'raypipe[anndata]'",
        f"torch is not installed, and this needs it; run: {EXTRAS}",
    ]
    assert (tmp_path / "hits.parquet").stat().st_size > 0
    assert searched.out.splitlines()[1].split("\t")[:3] == ["query_1", "1", "a"]


@pytest.mark.parametrize("verb", [["index", "--type", "HNSW8"], ["search", "GGCUACG"], ["search", "--ids", "a"]])
def test_plain_installation_does_not_search(plain: Path, atlas: Path, verb: list[str]) -> None:
    """Not even an atlas that was made elsewhere: the index needs FAISS, a query the model."""
    run = done([str(plain / "raypipe"), verb[0], str(atlas), *verb[1:]], cwd=atlas.parent)
    assert run.code == 1
    assert re.match(r"raypipe: (FAISS|torch) is not installed.*; run: pip install 'raypipe\[cpu\]'", run.lines[-1])
    assert len(run.lines) == 1


def test_two_faiss_wheels(full: Path, atlas: Path, tmp_path: Path) -> None:
    """Both install the same module, so there must be exactly one: `doctor` and first use say so."""
    entry = tmp_path / "site" / "faiss_gpu-1.15.1.dist-info"  # as pip leaves it
    entry.mkdir(parents=True)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: faiss-gpu\nVersion: 1.15.1\n")
    message = "faiss-cpu and faiss-gpu are both installed and overwrite each other; run: pip uninstall -y faiss-cpu"
    used = done([str(full / "raypipe"), "search", str(atlas), "--ids", "a"], cwd=tmp_path, PYTHONPATH=str(entry.parent))
    assert used.code == 1
    assert message in used.lines[-1]
    assert len(used.lines) == 1
    doctor = done([str(full / "raypipe"), "doctor"], cwd=tmp_path, PYTHONPATH=str(entry.parent))
    assert doctor.code == 1
    assert re.search(rf"^! faiss +{message}", doctor.out, re.MULTILINE)
    assert done([str(full / "raypipe"), "doctor"], cwd=tmp_path).code == 0


def test_demo_from_the_wheel(full: Path, tmp_path: Path) -> None:
    where = done([str(full / "python"), "-c", "import raypipe, model; print(raypipe.__file__)"], cwd=tmp_path)
    assert where.out.startswith(str(full.parent))
    demo = done([str(full / "raypipe"), "demo", "-o", "demo"], cwd=tmp_path, seconds=280)
    assert demo.code == 0, demo.err
    assert "RNaseP_bact" in demo.out
    assert list((tmp_path / "demo" / "index").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]
