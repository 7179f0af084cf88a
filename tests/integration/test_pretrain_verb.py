"""`raypipe pretrain` on the command line: from FASTA to a checkpoint that embeds, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from index.lock import writer_lock
from model import load
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE, run
from raypipe.training.state_files import states
from tests.headed import make_headed
from tests.integration.conftest import Cli, make_checkpoint
from tests.pretraining import PAIRS, losses, options, write_run_inputs

RECIPE = options(
    **PAIRS,
    clan_column="clan",
    hold_out_families=True,
    type_column="rna_type",
    type_weights={"rRNA": 0.5},
    family_cap=4,
)


@dataclass(frozen=True)
class Trained:
    """A finished run, its command without -o, and what is not to be changed."""

    folder: Path
    command: list[str]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The last bits of losses depend on the number of threads, which other verbs in this process set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    command = ["pretrain", *write_run_inputs(folder), *RECIPE, "--name", "small one"]
    assert run([*command, "-o", str(folder / "run")]) == DONE
    return Trained(folder / "run", command)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """The finished run, to be gone on with and damaged."""
    return Trained(Path(shutil.copytree(trained.folder, tmp_path / "run")), trained.command)


def unfinish(folder: Path, *, steps: int = 4) -> None:
    """As if the run had been killed some time after step `steps`."""
    shutil.rmtree(folder / "checkpoint")
    for path in states(folder / "state"):
        if int(path.stem[5:]) > steps:
            path.unlink()


def test_what_a_run_leaves(trained: Trained) -> None:
    names = {path.name for path in trained.folder.iterdir() if not path.name.startswith(".")}
    expected = "README.md atlas checkpoint config.json corpus curve.png metrics.jsonl settings.json state"
    assert names == set(expected.split())
    lines = losses(trained.folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]
    for line in lines:
        found = line.get("valid", line)
        assert {"mlm_loss", "masked_accuracy", "contrastive_loss", "nearest_in_family"} <= set(found)
    assert (trained.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((trained.folder / "settings.json").read_text())
    assert settings["family_cap"] == 4
    assert settings["inputs"] == [str(trained.folder.parent / "in.fa")]


def test_the_card_tells_facts(trained: Trained) -> None:
    card = (trained.folder / "README.md").read_text()
    about = json.loads((trained.folder / "corpus/corpus.json").read_text())
    held = about["held_out"]
    last = [line for line in losses(trained.folder) if "valid" in line][-1]["valid"]
    assert card == (trained.folder / "checkpoint/README.md").read_text()
    for fact in (
        "# small one",
        "| `in.fa` | 112 | `" + about["sources"][0]["sha256"],
        f"trained on {about['trained_on']:,}, validated on {about['validated_on']:,}, left out {about['left_out']:,}",
        "Weights by RNA type: rRNA 0.5; all others 1.",
        f"by `family` and `clan` ({held['families']} families with {held['sequences']} sequences); the families of its",
        "Validated on 10.00% of the sequences, chosen by hash: their near-duplicates may be trained on.",
        "| annotations `families` |  | `" + about["annotations"][0]["sha256"],
        f"{last['mlm_loss']:.4f}",
        f"{last['nearest_in_family']:.4f}",
        "6 steps",
        "| `contrastive_weight` | `0.5` |",
        "| `steps` | `6` |",
        f"validation figures are over {last['masked']:,} masked nucleotides, of at most 8 batches",
    ):
        assert fact in card, fact
    # Steps were told, so they do not count.
    assert "| `epochs` |" not in card
    assert str(trained.folder.parent) not in card


@pytest.mark.usefixtures("one_cpu")
def test_the_checkpoint_is_the_last_state_and_embeds(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    checkpoint = trained.folder / "checkpoint"
    model = load(checkpoint)
    assert model.trained is True
    assert model.name == "small one"
    state = load_file(states(trained.folder / "state")[-1])
    for name, value in model._encoder.named_parameters():
        assert torch.equal(value.half(), state[f"weights.{name}"].half()), name
    assert json.loads((checkpoint / "config.json").read_text())["torch_dtype"] == "float16"
    about = json.loads((checkpoint / "config.json").read_text())["raypipe"]
    assert (about["steps"], about["held_out_families"]) == (6, True)
    ran = cli(
        "embed", trained.folder.parent / "in.fa", "-o", tmp_path / "a", "--model", checkpoint, "--executor", "inline"
    )
    assert ran.code == DONE, ran.err
    assert "untrained" not in ran.err
    assert cli("fill-mask", "GGCU<mask>CCAAG", "--model", checkpoint).code == DONE


def test_a_finished_run_says_so_and_does_nothing(trained: Trained, cli: Cli) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*") if path.is_file()}
    ran = cli(*trained.command, "-o", trained.folder)
    assert ran.code == DONE
    assert "finished before" in ran.err
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed <= {".lock"}


def test_it_goes_on_where_it_was_and_forgets_what_came_after(trained: Trained, copied: Trained, cli: Cli) -> None:
    unfinish(copied.folder)
    # Nothing is said again; a later version has other settings; what changes no weights may be another.
    file = copied.folder / "settings.json"
    settings = json.loads(file.read_text())
    del settings["clip"], settings["keep_states"]
    file.write_text(json.dumps(settings | {"of_another_version": 7}))
    ran = cli("pretrain", "-o", copied.folder, "--store-dtype", "float32", "--keep-states", "1")
    assert ran.code == DONE, ran.err
    assert "going on after step 4" in ran.err
    assert "settings.json: of_another_version of another version of raypipe" in ran.err
    assert losses(copied.folder) == losses(trained.folder)
    kept = json.loads((trained.folder / "settings.json").read_text())
    assert json.loads(file.read_text()) == kept | {"store_dtype": "float32", "keep_states": 1}
    first, second = (load_file(states(run.folder / "state")[-1]) for run in (trained, copied))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert load_file(copied.folder / "checkpoint/model.safetensors")[
        "aido_rna.embeddings.word_embeddings.weight"
    ].dtype == (torch.float32)


def test_slice_by_slice(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    """Every command has time for one step, and the last one for what comes of it."""
    short = ["-o", tmp_path / "run", "--max-minutes", "1e-9"]
    for step in range(1, 6):
        ran = cli(*(trained.command if step == 1 else ["pretrain"]), *short)
        assert ran.code == INCOMPLETE, ran.err
        told = f"stopped when 1e-09 min were over; run the same command again: it goes on after step {step}"
        assert ran.err.endswith(told)
        if step == 3:
            _change_hardware(states(tmp_path / "run/state")[-1])
        if step == 4:
            assert re.search(r"goes on on 1 thread of .*, after 8 x none: as before but for rounding", ran.err)
    ran = cli("pretrain", *short)
    assert ran.code == DONE, ran.err
    lines = [line for line in losses(tmp_path / "run") if "note" not in line]
    assert lines == losses(trained.folder)
    assert ", then 8 x none, then 1 thread of" in (tmp_path / "run/README.md").read_text()
    assert "max_minutes" not in json.loads((tmp_path / "run/settings.json").read_text())


def _change_hardware(state: Path) -> None:
    """As if the last step had been taken elsewhere."""
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["raypipe.about"])
    about["hardware"].append("8 x none")
    save_file(load_file(state), state, metadata | {"raypipe.about": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "--learning-rate=0.5",
            "was begun with --learning-rate 0.01, and now it is 0.5; leave it out or give the same again to go on",
        ),
        ("--workers=2", "was begun with --workers 1, and now it is 2"),
        ("--max-length=50", "was begun with --max-length not given, and now it is 50"),
        ("--type-weights.rRNA=1", 'was begun with --type-weights {"rRNA": 0.5}, and now it is {"rRNA": 1.0}'),
        ("--num-layers=2", "was begun with --num-layers 1, and now it is 2"),
    ],
)
def test_other_settings_are_refused(trained: Trained, cli: Cli, change: str, message: str) -> None:
    command = [word for word in trained.command if not word.startswith(change.partition("=")[0] + "=")]
    ran = cli(*command, change, "-o", trained.folder)
    assert ran.code == USAGE
    assert f"{trained.folder}: {message}" in ran.err


def test_other_inputs_are_refused(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    other = write_run_inputs(tmp_path)
    ran = cli("pretrain", other[0], *trained.command[2:], "-o", trained.folder)
    assert ran.code == USAGE
    assert "was begun with INPUT" in ran.err
    ran = cli("pretrain", trained.command[1], *other[1:], "-o", trained.folder)
    assert ran.code == USAGE
    assert "was begun with --annotations" in ran.err


def test_settings_come_from_file_and_environment_too(
    trained: Trained, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text("type_column: rna_type\ntype_weights: {rRNA: 0.5, other: 2}\nsteps: 2\n")
    monkeypatch.setenv("RAYPIPE_PRETRAIN_SEED", "7")
    small = [word for word in options() if not word.startswith("--steps")]
    ran = cli("pretrain", *trained.command[1:4], *small, "--config", tmp_path / "recipe.yaml", "-o", tmp_path / "run")
    assert ran.code == DONE, ran.err
    settings = json.loads((tmp_path / "run/settings.json").read_text())
    assert settings["type_weights"] == {"rRNA": 0.5, "other": 2.0}
    assert (settings["seed"], settings["steps"]) == (7, 2)


def test_an_atlas_with_its_annotations(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    """The same sequences in the same order as those that the run ingested itself, so the same losses."""
    atlas = trained.folder / "atlas"
    ran = cli("pretrain", atlas, *RECIPE, "-o", tmp_path / "run")
    assert ran.code == DONE, ran.err
    assert losses(tmp_path / "run") == losses(trained.folder)
    assert not (tmp_path / "run/atlas").exists()
    ran = cli("pretrain", atlas, *trained.command[2:], "-o", tmp_path / "other")
    assert ran.code == USAGE
    assert f"is an atlas and has its own annotations; add more with: raypipe annotate {atlas}" in ran.err
    ran = cli("pretrain", atlas, trained.command[1], *RECIPE, "-o", tmp_path / "other")
    assert (ran.code, "train on it alone" in ran.err) == (USAGE, True)
    ran = cli("pretrain", atlas, *RECIPE, "--id-column", "name", "-o", tmp_path / "other")
    assert (ran.code, "--id-column says how files are read, and" in ran.err) == (USAGE, True)
    assert not (tmp_path / "other").exists()


def test_a_state_can_be_had_before_the_end(trained: Trained, copied: Trained, cli: Cli, tmp_path: Path) -> None:
    unfinish(copied.folder)
    ran = cli("pretrain", "-o", copied.folder, "--export", tmp_path / "early")
    assert ran.code == DONE, ran.err
    assert "the model after step 4" in ran.err
    card = (tmp_path / "early/README.md").read_text()
    assert "as it is after step 4. Training was to go on to step 6." in card
    state = load_file(states(copied.folder / "state")[-1])
    assert torch.equal(
        load(tmp_path / "early")._encoder.embedding.weight, state["weights.embedding.weight"].half().float()
    )
    ran = cli("pretrain", "-o", copied.folder, "--export", tmp_path / "other", "--name", "early one", "--steps", "6")
    assert ran.code == DONE, ran.err
    assert (tmp_path / "other/README.md").read_text() == card.replace("small one", "early one")
    ran = cli("pretrain", "-o", copied.folder, "--export", tmp_path / "none", "--steps", "7")
    assert (ran.code, "was begun with --steps 6, and now it is 7" in ran.err) == (USAGE, True)
    ran = cli("pretrain", "-o", copied.folder, "--export", tmp_path / "early")
    assert (ran.code, "exists already; name a new folder" in ran.err) == (FAILED, True)
    shutil.rmtree(copied.folder / "state")
    ran = cli("pretrain", "-o", copied.folder, "--export", tmp_path / "none")
    assert (ran.code, "has no state yet to make a checkpoint of" in ran.err) == (FAILED, True)
    ran = cli("pretrain", "-o", tmp_path, "--export", tmp_path / "none")
    assert (ran.code, "no run of raypipe pretrain was begun there" in ran.err) == (FAILED, True)


def test_going_on_from_a_checkpoint(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    inputs, base = trained.command[1], trained.folder / "checkpoint"
    shape = [word for word in options() if word.startswith(("--num-", "--hidden", "--inter"))]
    recipe = [word for word in options(steps=2, learning_rate=1e-9, final_learning_rate=0) if word not in shape]
    ran = cli("pretrain", inputs, *recipe, "--model", base, "-o", tmp_path / "run")
    assert ran.code == DONE, ran.err
    before, after = (load(folder)._encoder for folder in (base, tmp_path / "run/checkpoint"))
    torch.testing.assert_close(after.embedding.weight, before.embedding.weight, atol=1e-4, rtol=0)
    assert f"continued from `{base}`" in (tmp_path / "run/README.md").read_text()
    ran = cli("pretrain", inputs, *recipe, "--num-layers", "2", "--model", base, "-o", tmp_path / "other")
    assert ran.code == USAGE
    assert "is a checkpoint of another shape, it has num_layers 1" in ran.err
    other = make_headed(tmp_path / "headed")
    ran = cli("pretrain", inputs, *recipe, "--model", other, "-o", tmp_path / "run")
    assert (ran.code, "was begun with --model" in ran.err) == (USAGE, True)


def test_a_checkpoint_without_lm_head_gets_one(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    shape = ("--num-", "--hidden", "--inter")
    recipe = [word for word in options(steps=1) if not word.startswith(shape)]
    tiny = make_checkpoint(tmp_path / "tiny", 1)
    ran = cli("pretrain", trained.command[1], *recipe, "--model", tiny, "-o", tmp_path / "run")
    assert ran.code == DONE, ran.err
    assert "has no masked-LM head: a fresh one is trained with it" in ran.err
    assert load(tmp_path / "run/checkpoint")._encoder.lm_head is not None


def test_a_mistake_in_the_recipe_can_be_mended_in_the_same_folder(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    command = ["pretrain", *trained.command[1:4], *options(steps=1), "-o", tmp_path / "run"]
    ran = cli(*command, "--family-column", "famliy", "--family-cap", "3")
    assert ran.code == USAGE
    assert "family_column: 'famliy' is no annotation column; there are: families." in ran.err
    ran = cli(*command, "--family-column", "family", "--family-cap", "3")
    assert ran.code == DONE, ran.err


def test_inputs_of_an_earlier_attempt_do_not_mix(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "wrong.fa").write_text(">a\nACGUACGU\n")
    ran = cli("pretrain", tmp_path / "wrong.fa", *options(family_column="f", family_cap=1), "-o", tmp_path / "run")
    assert ran.code == USAGE
    ran = cli("pretrain", trained.command[1], *options(steps=1), "-o", tmp_path / "run")
    assert ran.code == USAGE
    assert f"holds {tmp_path / 'wrong.fa'} too, of an earlier attempt" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], USAGE, "name the inputs and the run's folder"),
        (["-o", "{tmp}/new"], USAGE, "no run was begun there; name its inputs"),
        (["{tmp}/none.fa", "-o", "{tmp}/new"], FAILED, "none.fa"),
        (["{fasta}", "-o", "{tmp}/foreign"], USAGE, "holds something else (notes.txt); name a new folder with -o"),
        (["{fasta}", "-o", "{tmp}/file"], USAGE, "is a file; name a folder with -o"),
        (["{fasta}", "-o", "{tmp}/new", "--mask-rate", "0"], USAGE, "greater than 0"),
        (["{fasta}", "-o", "{tmp}/new", "--epochs", "inf"], USAGE, "finite number"),
        (["{fasta}", "-o", "{tmp}/new", "--shard-weights"], USAGE, "nothing to spread over one worker; add --workers"),
        (["{fasta}", "-o", "{tmp}/new", "--gpus-per-worker", "1"], FAILED, "there is no GPU here"),
        (["{fasta}", "-o", "{tmp}/new", "--num-heads", "3"], FAILED, "does not give an even head size"),
    ],
)
def test_bad_input(trained: Trained, cli: Cli, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    fields = {"tmp": str(tmp_path), "fasta": trained.command[1]}
    recipe = [word for word in options(steps=1) if word.partition("=")[0] not in arguments]
    ran = cli("pretrain", *[text.format(**fields) for text in arguments], *recipe)
    assert ran.code == code
    assert message in ran.err
    assert (tmp_path / "foreign/notes.txt").read_text() == "mine"


def test_what_a_run_needs_at_its_end_is_asked_for_at_its_beginning(
    trained: Trained, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypipe.training.curve.find_spec", lambda _: None)
    ran = cli(*trained.command, "-o", tmp_path / "run")
    assert ran.code == FAILED
    assert "needs matplotlib, which is not installed" in ran.err
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_named_and_without_it_the_run_goes_on(trained: Trained, copied: Trained, cli: Cli) -> None:
    unfinish(copied.folder, steps=6)
    newest = states(copied.folder / "state")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    ran = cli(*copied.command, "-o", copied.folder)
    assert ran.code == FAILED
    assert f"{newest}: is damaged" in ran.err
    assert "remove it, and the run goes on from the one before" in ran.err
    newest.unlink()
    ran = cli(*copied.command, "-o", copied.folder)
    assert ran.code == DONE, ran.err
    assert losses(copied.folder) == losses(trained.folder)


def test_two_at_a_time(trained: Trained, copied: Trained, cli: Cli) -> None:
    unfinish(copied.folder)
    with writer_lock(copied.folder):
        ran = cli(*copied.command, "-o", copied.folder)
    assert ran.code == FAILED
    assert "is writing to this store" in ran.err
