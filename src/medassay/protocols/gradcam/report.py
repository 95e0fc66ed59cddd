"""What the protocol leaves: numbers as JSON, heat maps and charts as pictures, TensorBoard events, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from medassay.core.files import whole, write_json
from medassay.explain.activation_maps import NAMES
from medassay.protocols import pages
from medassay.reporting import figures, gradcam_figures, html
from medassay.reporting.tensorboard import add_results

if TYPE_CHECKING:
    from medassay.protocols.gradcam.protocol import Shown

RECORDED = ("run", "status", "protocol", "overrides")  # what the command was
CLASS_FREE = "eigencam"
CENTRED = 0.9  # share of the images with the true mask at the centre, from which the pointing game separates nothing


def write(directory: Path, results: dict[str, Any], shown: Shown, colormap: str, opacity: float) -> None:
    """Leaves ``gradcam.json``, ``metrics.json``, ``figures/``, ``tensorboard/`` and ``report.html``.

    Args:
        directory: where.
        results: the protocol's, with the command's record.
        shown: images and maps.
        colormap, opacity: of the overlays.

    Raises:
        OutputError: a file cannot be written.
    """
    write_json(directory / "gradcam.json", results)
    values = flat_metrics(results["scores"])
    record = {key: results[key] for key in RECORDED if key in results}
    write_json(directory / "metrics.json", {**record, "split": results["split"], "gradcam": values})
    charts = gradcam_figures.charts(results["scores"]) if results["scores"] else {}
    strip = strip_figure(results, shown, colormap, opacity)
    drawn = sheets(results, shown, colormap, opacity)
    drawn |= {"steps": strip} if strip else {}
    drawn |= {name: figure for name, (figure, _) in charts.items()}
    for name, figure in drawn.items():
        figures.save(figure, directory / "figures" / f"{name}.png")
    add_results(
        directory / "tensorboard",
        step=0,
        pictures=[directory / "figures" / f"{name}.png" for name in drawn],
        text={"verdict": overall(results)},
        hyperparameters={key: results[key] for key in ("model", "split")} | {"data": results["name"]},
        metrics={f"gradcam/{name}": value for name, value in values.items()},
    )
    content = page(results, shown, charts, strip, colormap, opacity)
    with whole(directory / "report.html") as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


# --- numbers and words -----------------------------------------------------------------------------------------------


def flat_metrics(scores: Mapping[str, Any] | None) -> dict[str, float]:
    """Single numbers, ``<score>/<method or baseline>``; ``trusted/<method>`` is 1 or 0 where the rule says."""
    flat: dict[str, float] = {}
    for row in [*scores["rows"], *scores["baselines"]] if scores else []:
        flat |= {f"{name}/{row['key']}": row[name]["mean"] for name in gradcam_figures.SCORES if name in row}
        if row.get("trusted") is not None:
            flat[f"trusted/{row['key']}"] = float(row["trusted"])
    return flat


def overall(results: Mapping[str, Any]) -> str:
    """The verdict in a few sentences."""
    scores = results["scores"]
    if scores is None:
        return "Nothing was scored: a heat map alone shows where a method points, not whether that explains anything."
    rows = scores["rows"]
    failed = [row["name"] for row in rows if row["trusted"] is False]
    if scores["with_mask"] >= scores["fewest_masks"]:
        best = max(rows, key=lambda row: row["pointing"]["mean"])
        point = f" The best pointing is that of {best['name']}: into the mask in {best['pointing']['mean']:.0%} of the images."
        centre = next(row["pointing"]["mean"] for row in scores["baselines"] if row["key"] == "centre")
        if centre >= CENTRED:
            point += f" The image’s centre is inside in {centre:.0%}: this score separates little here."
        told = f"To be trusted on this classifier, by the rule: {_listed([row['name'] for row in rows if row['trusted']])}."
        return (f"{told} Not: {_listed(failed)}." if failed else told) + point.replace("%", " %")
    told = "Whether the maps point to what matters cannot be said: too few of these images have a true mask."
    told += f" The sanity check is passed by {_listed([row['name'] for row in rows if row['trusted'] is None])}"
    told += f" and failed by {_listed(failed)}." if failed else "."
    return f"{told} Better than both baselines in deletion and in insertion: {_listed(_followed(rows))}."


def _followed(rows: list[dict[str, Any]]) -> list[str]:
    """The methods whose order of pixels the classifier follows better than it follows both baselines'."""
    return [
        row["name"]
        for row in rows
        if all(mean["low"] > 0 for score in ("deletion", "insertion") for mean in row["gain"][score].values())
    ]


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- pictures --------------------------------------------------------------------------------------------------------


def sheets(results: Mapping[str, Any], shown: Shown, colormap: str, opacity: float) -> dict[str, Figure]:
    """A sheet of heat maps per method, by file name."""
    return {
        f"heatmaps_{method.replace('+', 'p')}": gradcam_figures.sheet(
            shown.images,
            maps,
            results["images"],
            results["classes"],
            colormap=colormap,
            opacity=opacity,
            title=f"{NAMES[method]}, {results['layer']['name']}\n{results['selection']}",
        )
        for method, maps in shown.maps.items()
    }


def strip_figure(results: Mapping[str, Any], shown: Shown, colormap: str, opacity: float) -> Figure | None:
    """One heat map step by step, where one was asked for."""
    if shown.strip is None:
        return None
    place, steps = shown.strip
    name = results["classes"][results["images"][place]["predicted"]]
    return gradcam_figures.steps(shown.images[place], steps, name, colormap=colormap, opacity=opacity)


# --- the page --------------------------------------------------------------------------------------------------------


def page(
    results: Mapping[str, Any],
    shown: Shown,
    charts: Mapping[str, tuple[Figure, str]],
    strip: Figure | None,
    colormap: str,
    opacity: float,
) -> str:
    """``report.html``."""
    images, k = shown.images, len(results["classes"])
    overlays = {
        method: [
            [gradcam_figures.overlay(images[i : i + 1], maps[i : i + 1, c], colormap, opacity) for c in range(k)]
            for i in range(len(images))
        ]
        for method, maps in shown.maps.items()
    }
    empty = {method: (~maps.flatten(2).any(2)).tolist() for method, maps in shown.maps.items()}
    explained = None if shown.strip is None else results["images"][shown.strip[0]]
    return html.page(
        "gradcam.html.j2",
        results=results,
        names=NAMES,
        images=images,
        overlays=overlays,
        empty=empty,
        explained=explained,
        bar=gradcam_figures.colour_bar(colormap),
        strip_svg=None if strip is None else html.svg(strip, "steps", "One heat map step by step"),
        charts={name: (html.svg(figure, name, text), text) for name, (figure, text) in charts.items()},
        warnings=warnings(results),
        overall=overall(results),
        class_free=CLASS_FREE,
        scores=gradcam_figures.SCORES,
        command=pages.command(results),
        provenance=dict(pages.flat(results["data"])),
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any heat map."""
    data = results["data"].get("real", results["data"])
    return list(pages.said(pages.origin(data), pages.unfinished(results)))
