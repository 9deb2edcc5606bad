"""The commands of pti and their options. A command reads its settings and calls the library."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clipgeom._io.files import check_output_file, write_whole
from clipgeom._progress import Progress
from clipgeom._version import __version__
from clipgeom.errors import ConfigError
from pti._logging import silence
from pti.config.schema import Config
from pti.config.toml_io import explained, read_config, starting_file
from pti.errors import TrainingError

__all__ = ["app"]

app = typer.Typer(
    name="pti",
    help="Pivotal tuning of Stable Diffusion: textual inversion of a concept from a few images, then a LoRA around it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Source = Annotated[
    Path | None,
    typer.Argument(help="Configuration file or run folder. Default: the default settings.", show_default=False),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value. Repeatable.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; replaces output.dir.")]
Folder = Annotated[Path, typer.Argument(help="Run folder.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"pti {__version__}")
        raise typer.Exit


@app.command("init")
def _init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("pti.toml"),
    preset: Annotated[str, typer.Option(help="Preset whose values the file has.")] = "miniworld",
    everything: Annotated[bool, typer.Option("--all", help="Write every setting, with its explanation.")] = False,
) -> None:
    """Write a configuration file with the settings that most runs change."""
    text = explained(preset) if everything else starting_file(preset)
    if path.exists():
        raise ConfigError(f"{path} exists already; give another name, or delete it")
    write_whole(check_output_file(path, lambda _: False, maker="pti init"), text.encode())
    print(f"configuration: {path}")


@app.command("run")
def _run(
    config: Source = None,
    settings: Settings = None,
    out: Out = None,
    until: Annotated[str, typer.Option(help="Last stage to run: invert, tune, evaluate or export.")] = "export",
) -> None:
    """Train a concept: invert, tune, evaluate and export.

    Continues an interrupted run.
    Writes a run folder: settings, metrics, previews, checkpoints, evaluation,
    and export/ with the files for other tools.
    """
    _execute(_read(config, settings, out), _until(until))


@app.command("invert")
def _invert(config: Source = None, settings: Settings = None, out: Out = None) -> None:
    """Run stage 1 only: textual inversion.

    Writes checkpoints, metrics and previews into the run folder.
    """
    _execute(_read(config, settings, out), ("invert",))


@app.command("tune")
def _tune(config: Source = None, settings: Settings = None, out: Out = None) -> None:
    """Run stage 2 only: LoRA tuning.

    The run folder must contain a finished stage 1.
    Writes checkpoints, metrics and previews into it.
    """
    _execute(_read(config, settings, out), ("tune",))


@app.command("evaluate")
def _evaluate(folder: Folder) -> None:
    """Evaluate a trained run.

    Writes evaluation.json (metrics with 95 % intervals)
    and previews/evaluation.png into the run folder.
    """
    _finish("evaluate", folder)


@app.command("export")
def _export(folder: Folder) -> None:
    """Export a trained run to files for other tools.

    Writes the embedding, the LoRA and a model card into the run's export folder.
    """
    _finish("export", folder)


# Many parameters: typer makes an option of the command of each
@app.command("sweep")
def _sweep(
    config: Source = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="Vary a setting: section.key=value,value, or section.key=0..4 for 0 to 4. Repeatable."),
    ] = None,
    together: Annotated[
        list[str] | None,
        typer.Option(help="Vary settings in pairs: key=a,b;key=c,d gives a with c and b with d. Repeatable."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds, as --vary runtime.seed=0..N-1.", min=1)] = None,
    settings: Settings = None,
    until: Annotated[str, typer.Option(help="Last stage to run: invert, tune, evaluate or export.")] = "tune",
    jobs: Annotated[int, typer.Option(help="Number of parallel runs.", min=1)] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Repeat failed runs.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the sweep.")] = Path("sweep"),
) -> None:
    """Run a grid of settings, and write one table of all results.

    Continues an interrupted sweep.
    Writes a folder with one run for each point of the grid, and the table.
    """
    import json

    from pti.sweeps.plan import read_together, read_vary
    from pti.sweeps.sweep import Sweep, sweep

    grid = [read_vary(text) for text in vary or ()]
    grid += [("runtime.seed", list(range(seeds)))] if seeds is not None else []
    twice = [key for number, (key, _) in enumerate(grid) if key in dict(grid[:number])]
    if twice:
        raise ConfigError(f"{twice[0]} varies twice; give --vary once for it (--seeds varies runtime.seed)")
    if not grid and not together:
        raise ConfigError("nothing varies; name a setting, such as --vary lora.rank=4,8 or --seeds 5")
    plan = Sweep(config, settings or (), dict(grid), [read_together(text) for text in together or ()])
    plan.points()  # refuses wrong settings before anything is loaded
    stages = _until(until)
    silence()
    with Progress("finished", "runs", speaker="pti") as progress:
        table = sweep(plan, out, stages=stages, jobs=jobs, retry=retry, progress=progress)
    summary = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    n, failed = len(summary["runs"]), summary["failed"]
    print(f"table: {table} ({n} runs, {failed} failed)")
    if failed:
        raise TrainingError(
            f"{failed} of {n} runs failed; see the column error of {table}. Try them again with --retry"
        )


# Many parameters: typer makes an option of the command of each
@app.command("sample")
def _sample(
    folder: Folder,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Prompt with {token} for the concept. Repeatable. Default: validation.prompts of the run."),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Number of images for each prompt.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the images.", min=0)] = None,
    steps: Annotated[int | None, typer.Option(help="Number of sampling steps.", min=1)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 turns it off.", min=1.0)
    ] = None,
    lora_scale: Annotated[float, typer.Option(help="Scale of the LoRA; 0 turns it off.")] = 1.0,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")] = "auto",
    out: Annotated[Path, typer.Option(help="PNG file to write, with one row for each prompt.")] = Path("sample.png"),
) -> None:
    """Generate images from a trained run, and write them as one PNG."""
    from pti.models.sampling import sample_images
    from pti.runs.image_grid import is_grid, save_image_grid
    from pti.runs.run import load_run

    if out.suffix.lower() != ".png":
        raise ConfigError(f"expected --out to be a .png file, got {out}")
    target = check_output_file(out, is_grid, maker="pti sample")
    if not math.isfinite(lora_scale):
        raise ConfigError(f"expected --lora-scale to be a finite number, got {lora_scale}")
    silence()
    run = load_run(folder, device=_device(device), images=False)
    validation, sampler = run.config.validation, run.config.sampler
    count = validation.images_per_prompt if count is None else count
    prompts = [p for p in (prompt or validation.prompts) for _ in range(count)]
    images = sample_images(
        run.model,
        prompts,
        seed=validation.seed if seed is None else seed,
        steps=sampler.num_inference_steps if steps is None else steps,
        guidance=sampler.guidance_scale if guidance is None else guidance,
        lora_scale=lora_scale,
        size=run.config.data.resolution,
    )
    save_image_grid(target, images, count, run.marks)
    print(f"images: {out}")


def _until(last: str) -> tuple[str, ...]:
    from pti.workflow import STAGES

    if last not in STAGES:
        raise ConfigError(f"expected --until to be one of {', '.join(STAGES)}; got {last!r}")
    return STAGES[: STAGES.index(last) + 1]


def _read(path: Path | None, settings: list[str] | None, out: Path | None) -> Config:
    config = read_config(path, settings or ())
    if out is not None:
        config = replace(config, output=replace(config.output, dir=str(out)))
    elif path is not None and path.is_dir():
        config = replace(config, output=replace(config.output, dir=str(path)))
    return config


def _execute(config: Config, stages: tuple[str, ...]) -> None:
    from pti.workflow import run_stages

    silence()
    with Progress("trained", "steps", speaker="pti") as progress:
        folder = run_stages(config, stages, progress=progress)
    if os.environ.get("RANK", "0") == "0":  # launchers start a command for each process
        print(f"run: {folder}")


def _finish(stage: str, folder: Path) -> None:
    from pti.workflow import run_stage

    silence()
    with Progress("done", "steps", speaker="pti") as progress:
        path = run_stage(stage, folder, progress)
    print(f"{'evaluation' if stage == 'evaluate' else stage}: {path}")


def _device(name: str) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, usable in available.items() if usable)
    if not available.get(name.partition(":")[0], False):
        raise ConfigError(f"device {name!r} is not available here; use --device auto")
    return name
