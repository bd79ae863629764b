"""[folder of a run → **one page that shows it**]

`hcml report RUN`: curves of all stages, flow, confusions, settings, versions and wall time as one html file that needs
nothing else: no network, no script, no other file.
"""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hcml_lightning.scores import remarks, scores
from hcml_lightning.tools.console.output import counted, write_text
from hcml_lightning.tools.console.trouble import explain
from hcml_lightning.tools.pictures.confusion import confusion
from hcml_lightning.tools.reports.charts import charts
from hcml_lightning.tools.reports.settings import differences
from hcml_lightning.tools.reports.stage_runs import StageRun, read_runs
from hcml_lightning.tools.run.layout import folder_of_run


def render(title: str, stages: Sequence[StageRun], flow_videos: int = 4) -> str:
    """Return the page as html.

    Args:
        title: heading of the page.
        stages: stages of one run or several, as returned by `read_run` or `read_runs`.
        flow_videos: how many videos to show the flow of; 0 builds no model and opens no video.
    """
    environment = Environment(
        loader=PackageLoader("hcml_lightning.tools.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(
        number=lambda value: f"{value:.4g}",
        percent=lambda value: f"{100 * value:.1f} %",
        duration=duration,
        shown=_shown,
        remarks=lambda stage: remarks(stage.metrics),
        headlines=_headlines,
        counted=counted,
        views=_views,
        left_out=_left_out,
    )
    flows, notes = _flows(stages, flow_videos)
    environments = _environments(stages)
    return environment.get_template("report.html").render(
        title=title,
        stages=stages,
        grouped=any(stage.group for stage in stages),
        seconds=sum(stage.seconds or 0.0 for stage in stages),
        ended=max((e["ended"] for _, e in environments), default=""),
        with_curves=[(s, found) for s in stages if (found := charts(s.curves))],
        elsewhere=[s for s in stages if "fit" in s.records and s.config and not s.curves],
        flows=flows,
        flow_notes=notes,
        tests=[(s, confusion(s.videos)) for s in stages if s.videos],
        environments=environments,
        differences=differences(stages),
    )


def duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    Example:
        >>> duration(59.6), duration(3661)
        ('1:00', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _shown(stage: StageRun) -> str:
    """Return the metrics that a stage is judged by, each with the references that it has to beat."""
    parts = [
        f"{name} {value:.4g}" + (f" ({reference})" if reference else "")
        for name, value, reference in scores(stage.metrics)
    ]
    fit = stage.records.get("fit", {})
    validated = fit.get("validated_epoch")
    if validated not in (None, fit.get("epochs")) and "validate" not in stage.records:
        parts.append(f"val/ after epoch {validated}")
    return " · ".join(parts)


def _views(stage: StageRun) -> str:
    options = (stage.settings.get("data") or {}).get("init_args") or {}
    clips, crops = options.get("test_clips"), options.get("test_crops")
    if not clips or not crops:
        return ""
    return f", mean over {counted(clips, 'clip')} × {counted(crops, 'crop')} of each"


def _left_out(stage: StageRun) -> str:
    videos = stage.records.get("test", {}).get("videos") or {"seen": 0, "in_split": 0}
    limited = videos["seen"] < videos["in_split"]
    return f", {videos['seen']} of {counted(videos['in_split'], 'video')}" if limited else ""


def _headlines(stage: StageRun) -> list[tuple[str, str]]:
    """Return the text and the name of each number of a test that is worth a headline."""
    found = stage.metrics
    # Among fewer classes, half of all guesses or more are right.
    few = 0 < len({video.label for video in stage.videos}) < 10
    shares = {"test/top1": "top-1", **({} if few else {"test/top5": "top-5"})}
    texts = [(f"{100 * found[k]:.1f} %", name) for k, name in shares.items() if k in found]
    epe = found.get("test/epe")
    return texts if epe is None else [*texts, (f"{epe:.4g}", "end-point error, cells")]


def _flows(stages: Sequence[StageRun], videos: int) -> tuple[list[tuple[str, Any]], list[str]]:
    """Return the flow pictures of each run, and notes on runs whose pictures could not be drawn."""
    if not videos or not any("fit" in stage.records for stage in stages):
        return [], []
    # Imported late, because only the pictures need PyTorch.
    from hcml_lightning.tools.reports.flow import flow_picture

    flows, notes = [], []
    for group, members in groupby(stages, key=lambda stage: stage.group):
        try:
            picture = flow_picture(list(members), videos)
        except Exception as error:
            # A user's own class may not be importable here; unexpected errors are raised, not hidden in the page.
            said = str(error) if isinstance(error, ImportError) else explain(error)
            if said is None:
                raise
            notes.append(f"No flow pictures{f' of {group}' if group else ''}: {said}")
        else:
            flows += [(group, picture)] if picture is not None else []
    return flows, notes


def _environments(stages: Sequence[StageRun]) -> list[tuple[str, dict[str, str]]]:
    """Return the environments in which stages ran, each once, with the names of its stages."""
    found: dict[tuple[tuple[str, str], ...], tuple[list[str], dict[str, str]]] = {}
    for stage in stages:
        for record in stage.records.values():
            if environment := record.get("environment"):
                same = tuple((k, v) for k, v in environment.items() if k != "ended")
                names, first = found.setdefault(same, ([], dict(environment)))
                names.append(f"{stage.group}/{stage.name}" if stage.group else stage.name)
                first["ended"] = max(first["ended"], environment["ended"])
    return [(", ".join(dict.fromkeys(names)), first) for names, first in found.values()]


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml report`."""
    parser = argparse.ArgumentParser(
        prog="hcml report",
        description="Write one HTML page about a run: curves of all stages, flow, confusions, accuracy of each class, "
        "settings, versions and wall time. It opens offline.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        type=Path,
        metavar="RUN",
        nargs="+",
        help="folder written by hcml progressive, demo, fit or test, one that holds several of them, or a checkpoint "
        "in it",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="file to write (default: RUN/report.html; required for several RUNs)",
    )
    parser.add_argument(
        "--flow_videos",
        type=int,
        default=4,
        help="number of videos whose flow is shown; 0 opens none (default: %(default)s)",
    )
    return parser


def main(words: Sequence[str]) -> int:
    """Write one html page about one run or several."""
    parser = make_parser()
    options = parser.parse_args(words)
    if len(options.runs) > 1 and options.output is None:
        parser.error("several runs have no default --output; pass the file to write")
    runs = [
        folder_of_run(run.parent) if run.suffix == ".ckpt" and run.is_file() else run
        for run in options.runs
    ]
    output = options.output or runs[0] / "report.html"
    title = ", ".join(run.resolve().name for run in runs)
    stages = read_runs(runs)
    write_text(output, render(title, stages, options.flow_videos))
    print(f"{counted(len(stages), 'stage')} -> {output}")
    return 0
