"""The page of gpu.py: its table of targets first, then the parts."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import machine

Result = dict[str, Any]
# Targets on an H200: share of peak, tokens/s, share of ceiling, against padded, 8 bits against bfloat16.
TARGETS = {"650M": (0.67, 375e3, 0.85, 4.0, 1.2), "1.6B": (0.73, 170e3, 0.90, 3.5, 1.35)}
LOOP, FIDELITY, FIDELITY8, NEIGHBOURS = 0.95, (0.9999, 0.999), (0.999, 0.995), 0.95
GIB = 2**30


def page(result: Result) -> str:
    """The results as Markdown."""
    settings, versions = result["settings"], result["versions"]
    lines = [
        f"# The trunk on {result['device']}, {result['date']}",
        "",
        f"`{' '.join(result['command'])}`, {result['seconds']:.0f} s; torch {versions['torch']}, CUDA "
        f"{versions['cuda']}; {machine.words(result['machine'])}. Batches of {settings['budget']:,} tokens, layers "
        f"{'compiled' if settings['compiled'] else 'not compiled'}; random weights. An 8192^3 product in bfloat16: "
        f"{result['peak_flops'] / 1e12:.0f} TFLOP/s.",
        "",
    ]
    if result["smoke"]:
        lines += ["**A smoke run on a CPU with a tiny trunk: these figures mean nothing.**", ""]
    lines += ["Fidelity to float32 of the trained checkpoint `nano`, pooled vectors:", ""]
    lines += ["| | median cosine | worst | shared 10 nearest | of sequences |", "|---|---|---|---|---|"]
    lines += [
        f"| {dtype} | {run['median']:.6f} | {run['worst']:.6f} | {run['neighbours']:.3f} | {run['sequences']} |"
        for dtype, run in result["nano"].items()
    ]
    lines.append("")
    for name, found in result["models"].items():
        lines += [f"## {name}", "", *targets(name, found, result["peak_flops"]), "", *parts(found), ""]
    if "sweep" in result:
        lines += ["## Budgets", "", "| tokens of a batch | tokens/s | of peak |", "|---|---|---|"]
        lines += [
            f"| {int(budget):,} | {run['tokens_per_s']:,.0f} | {run['flops'] / result['peak_flops']:.3f} |"
            for budget, run in result["sweep"].items()
        ]
        lines.append("")
    return "\n".join(lines)


def targets(name: str, found: Result, peak: float) -> list[str]:
    """The table of targets, each with whether it is met."""
    share, rate, of_ceiling, against, gain = TARGETS[name]
    run, padded, half = found["forward"], found["padded"], found["bfloat16"]
    rows = [
        ("forward, of peak", run["flops"] / peak, share, "{:.3f}"),
        ("forward, tokens/s", run["tokens_per_s"], rate, "{:,.0f}"),
        ("forward, of ceiling", found["ceiling_s"] / run["seconds"], of_ceiling, "{:.3f}"),
        ("against padded bfloat16 SDPA", run["tokens_per_s"] / padded["tokens_per_s"], against, "{:.2f}x"),
        (f"actor's loop, of forward ({found['loop']['writes']})", _of(found["loop"], run), LOOP, "{:.3f}"),
        ("bfloat16, cosine to float32, median", half["median"], FIDELITY[0], "{:.6f}"),
        ("bfloat16, cosine to float32, worst", half["worst"], FIDELITY[1], "{:.6f}"),
    ]
    if eight := found.get("float8"):
        rows += [
            ("8 bits against bfloat16", eight["tokens_per_s"] / run["tokens_per_s"], gain, "{:.2f}x"),
            ("8 bits, cosine to float32, median", eight["median"], FIDELITY8[0], "{:.6f}"),
            ("8 bits, cosine to float32, worst", eight["worst"], FIDELITY8[1], "{:.6f}"),
            ("8 bits, shared 10 nearest", eight["neighbours"], NEIGHBOURS, "{:.3f}"),
        ]
    lines = ["| | measured | target, for an H200 | |", "|---|---|---|---|"]
    for what, value, target, form in rows:
        met = "met" if value >= target else "MISSED"
        lines.append(f"| {what} | {form.format(value)} | {form.format(target)} | {met} |")
    return [
        *lines,
        "",
        f"- Float32 against a padded textbook encoder: {found['difference_to_padded']:.1e} of the largest value.",
        f"- What the order of sequences changes in bfloat16: {half['company']:.1e} of the largest value (0: nothing).",
        f"- Shared 10 nearest, bfloat16: {half['neighbours']:.3f}.",
        f"- Padded batches of 32 in a shuffle compute {padded['waste']:.2f}x the real tokens, "
        f"{padded['tokens_per_s']:,.0f} real tokens/s.",
        f"- Plain layers, not compiled: {found['plain']['tokens_per_s']:,.0f} tokens/s.",
        *(_memory(dtype, memory) for dtype, memory in found["memory"].items()),
    ]


def _of(run: Result, whole: Result) -> float:
    return run["tokens_per_s"] / whole["tokens_per_s"]


def _memory(dtype: str, memory: Result) -> str:
    measured = "not measured" if memory["measured"] is None else f"{memory['measured'] / GIB:.2f} GiB measured"
    return (
        f"- Peak of memory in {dtype}, batches of {memory['budget']:,}: {measured}, {memory['computed'] / GIB:.2f} GiB "
        "computed at most."
    )


def parts(found: Result) -> list[str]:
    """Where the time goes."""
    alone = found["parts"]
    lines = ["| product | tokens | us | TFLOP/s | TFLOP/s in 8 bits |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['product']} | {row['tokens']:,} | {row['seconds'] * 1e6:,.0f} | {row['flops'] / 1e12:,.0f} | "
        f"{_rate(row.get('float8_flops'))} |"
        for row in alone["products"]
    ]
    lines += ["", "| attention, tokens of a segment | us | TFLOP/s |", "|---|---|---|"]
    lines += [
        f"| {row['length'] or 'the mix, longest batch'} | {row['seconds'] * 1e6:,.0f} | {row['flops'] / 1e12:,.0f} |"
        for row in alone["attention"]
    ]
    lines += ["", "| between | plain us | compiled us | GB/s of the faster |", "|---|---|---|---|"]
    for row in alone["between"]:
        fastest = min(row["plain"], row.get("compiled", row["plain"]))
        compiled = f"{row['compiled'] * 1e6:,.0f}" if "compiled" in row else ""
        rate = f"{row['bytes'] / fastest / 1e9:,.0f}" if row["bytes"] else ""
        lines.append(f"| {row['kernel']} | {row['plain'] * 1e6:,.0f} | {compiled} | {rate} |")
    return [*lines, f"| pooling of a batch | {alone['pooling_s'] * 1e6:,.0f} | | |"]


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value / 1e12:,.0f}"
