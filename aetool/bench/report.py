"""The result of a benchmark as tables, a JSON file and a roofline figure."""

from pathlib import Path

from rich.console import Console

from aetool.bench.result import AETOOL, BARE, FASTEST, USUAL, Result
from aetool.console import PlainConsole
from aetool.files import make_folder, write_json
from aetool.report.plots import PALETTE, save, sheet, titled
from aetool.report.tables import print_measures

CEILING = "ceiling"
LISTED = 12  # layers in the terminal, by time


def print_result(result: Result, console: Console | None = None) -> None:
    """Tables of at most 80 columns."""
    console = console or PlainConsole()
    machine = result.hardware
    console.print(
        f"{machine['gpu'] + ', ' if 'gpu' in machine else ''}{machine['cpu']}, {machine['cores']} cores, "
        f"threads={machine['threads']}, {' '.join(machine['flags'])}, {machine['memory_gib']:g} GiB, "
        f"torch {machine['torch']}"
    )
    lines: dict[str, dict[str, float | str | None]] = {}
    for name, rate in result.rates.items():
        ratio = result.ratios.get(name)
        lines[name] = {
            "images/s": f"{rate.median:,.0f}",
            "quartiles": rate.text(",.0f"),
            "aetool / this": ratio and f"{ratio.median:.3f}",
            " quartiles": ratio and ratio.text(".3f"),
        }
    fraction = result.fraction(AETOOL)
    lines[CEILING] = {
        "images/s": f"{result.ceiling.median:,.0f}",
        "quartiles": result.ceiling.text(",.0f"),
        "aetool / this": f"{fraction.median:.3f}",
        " quartiles": fraction.text(".3f"),
    }
    print_measures(result.title, lines, console)
    for name, meaning in _meanings(result).items():
        console.print(f"{name}: {meaning}", style="dim")
    _print_step(result, console)
    _print_layers(result, console)


def _meanings(result: Result) -> dict[str, str]:
    bare = {name: f"{variant}, float images in memory, own few lines" for name, variant in result.variants.items()}
    if FASTEST in bare:
        bare[FASTEST] = f"{result.variants[FASTEST]}, as above, faster than {result.variants[BARE]}"
    return bare | {
        USUAL: "DataLoader without workers, PIL and ToTensor, NCHW, fp32",
        CEILING: "the step's matrix products and convolutions alone, forward and backward",
    }


def _print_step(result: Result, console: Console) -> None:
    parts = result.step_parts
    whole = sum(parts.values())
    print_measures(
        f"\nwhere aetool's step of {1e3 * whole:.4g} ms goes",
        {
            "ms": {name: f"{1e3 * seconds:.3g}" for name, seconds in parts.items()},
            "%": {name: f"{100 * seconds / whole:.1f}" for name, seconds in parts.items()},
        },
        console,
    )


def _print_layers(result: Result, console: Console) -> None:
    layers = sorted(result.layers, key=lambda layer: -sum(layer.seconds.values()))[:LISTED]
    print_measures(
        f"\nprimitives of {'the slowest of ' * (len(result.layers) > LISTED)}{len(result.layers)} layers, alone",
        {
            layer.name or "(model)": {
                "forward ms": f"{1e3 * layer.seconds['forward']:.3g}",
                "backward ms": f"{1e3 * layer.seconds['backward']:.3g}",
                "GFLOP/s": f"{layer.flops_per_second / 1e9:.0f}",
                "of best": f"{layer.flops_per_second / result.roof:.2f}",
            }
            for layer in layers
        },
        console,
    )
    console.print(
        f"best: {result.roof / 1e9:,.0f} GFLOP/s of any layer or a large matrix product; "
        f"copying memory: {result.peak_bytes_per_second / 1e9:.1f} GB/s",
        style="dim",
    )


def write(folder: Path, result: Result, config: dict[str, object]) -> None:
    """bench.json, with the config, and roofline.png."""
    make_folder(folder)
    write_json(folder / "bench.json", result.plain() | {"config": config})
    draw_roofline(result, folder / "roofline.png")


def draw_roofline(result: Result, path: Path) -> None:
    """GFLOP/s against FLOPs per byte for every layer alone and for whole steps, below the measured roofs."""
    figure, (axes,) = sheet(1, 1, 7.5, 5)
    roof, bandwidth = result.roof / 1e9, result.peak_bytes_per_second / 1e9
    points = {layer.name: (layer.flops / layer.nbytes, layer.flops_per_second / 1e9) for layer in result.layers}
    intensities, speeds = zip(*points.values(), strict=True)
    ridge = roof / bandwidth
    low, high = min(*intensities, ridge) / 4, max(*intensities, ridge) * 4
    label = f"measured roofs: {roof:,.0f} GFLOP/s, {bandwidth:.1f} GB/s"
    axes.plot([low, ridge, high], [low * bandwidth, roof, roof], color="#777777", label=label)
    axes.scatter(intensities, speeds, s=22, color=PALETTE[0], label="a layer's primitives alone")
    for name, point in points.items():
        axes.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7, parse_math=False)
    for index, name in enumerate(result.images_per_second, start=1):
        speed = result.flops_per_second(name) / 1e9
        label = f"step of {name}: {speed:,.1f} GFLOP/s"
        axes.scatter([result.flops / result.nbytes], [speed], marker="*", s=110, color=PALETTE[index], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter("{x:g}" if scale is axes.yaxis else "")
    titled(axes, result.title, "FLOPs per byte of inputs, weights and outputs", "GFLOP/s")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    save(figure, path)
