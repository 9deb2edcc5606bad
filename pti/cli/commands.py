"""The commands and their options. Each reads the settings, then calls the library; nothing is computed here."""

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
from pti.config.toml_io import commented, read_config
from pti.errors import TrainingError

__all__ = ["app"]

app = typer.Typer(
    name="pti",
    help="Pivotal tuning: a new word for a few pictures, and a generator lightly tuned around it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Source = Annotated[
    Path | None, typer.Argument(help="Configuration, or a run folder. Left out: the defaults.", show_default=False)
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value in place of the configuration's; repeatable.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder, in place of output.dir.")]
Folder = Annotated[Path, typer.Argument(help="A run folder.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"pti {__version__}")
        raise typer.Exit


@app.command("init")
def _init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("pti.toml"),
) -> None:
    """Write a configuration in which every setting is explained."""
    if path.exists():
        raise ConfigError(f"{path} is there already; give another name, or delete it")
    write_whole(check_output_file(path, lambda _: False, maker="pti init"), commented().encode())
    print(f"configuration: {path}")


@app.command("run")
def _run(
    config: Source = None,
    settings: Settings = None,
    out: Out = None,
    until: Annotated[str, typer.Option(help="Last stage: invert, tune, evaluate or export.")] = "export",
) -> None:
    """Invert, tune, evaluate, export; goes on where it stopped."""
    _execute(_read(config, settings, out), _until(until))


@app.command("invert")
def _invert(config: Source = None, settings: Settings = None, out: Out = None) -> None:
    """Stage 1 alone: the new word's vectors."""
    _execute(_read(config, settings, out), ("invert",))


@app.command("tune")
def _tune(config: Source = None, settings: Settings = None, out: Out = None) -> None:
    """Stage 2 alone: low-rank changes around an inverted word."""
    _execute(_read(config, settings, out), ("tune",))


@app.command("evaluate")
def _evaluate(folder: Folder) -> None:
    """Measure a run."""
    _finish("evaluate", folder)


@app.command("export")
def _export(folder: Folder) -> None:
    """Write the files that other tools load."""
    _finish("export", folder)


@app.command("sweep")
def _sweep(
    config: Source = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="section.key=value,value: each with all others; 0..4 counts. Repeatable.")
    ] = None,
    together: Annotated[
        list[str] | None, typer.Option(help="key=a,b;key=c,d: a with c, b with d. One group of the grid; repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="So many seeds: --vary runtime.seed=0..N-1.", min=1)] = None,
    settings: Settings = None,
    until: Annotated[str, typer.Option(help="Last stage: invert, tune, evaluate or export.")] = "tune",
    jobs: Annotated[int, typer.Option(help="Runs at a time.", min=1)] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Also do runs again that have failed.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the sweep.")] = Path("sweep"),
) -> None:
    """Run a grid of settings, and write a table; goes on where it stopped."""
    import json

    from pti.sweeps.plan import read_together, read_vary
    from pti.sweeps.sweep import Sweep, sweep

    grid = [read_vary(text) for text in vary or ()]
    grid += [("runtime.seed", list(range(seeds)))] if seeds is not None else []
    twice = [key for number, (key, _) in enumerate(grid) if key in dict(grid[:number])]
    if twice:
        raise ConfigError(f"{twice[0]} varies twice; give --vary once for it (--seeds varies runtime.seed)")
    if not grid and not together:
        raise ConfigError("nothing varies; say what does, such as --vary lora.rank=4,8 or --seeds 5")
    plan = Sweep(config, settings or (), dict(grid), [read_together(text) for text in together or ()])
    plan.points()  # what is wrong is told before anything is loaded
    stages = _until(until)
    silence()
    with Progress("finished", "runs", speaker="pti") as progress:
        table = sweep(plan, out, stages=stages, jobs=jobs, retry=retry, progress=progress)
    told = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    n, failed = len(told["runs"]), told["failed"]
    print(f"table: {table} ({n} runs, {failed} failed)")
    if failed:
        raise TrainingError(
            f"{failed} of {n} runs failed; the column error of {table} says why. Try them again with --retry"
        )


@app.command("sample")
def _sample(
    folder: Folder,
    prompt: Annotated[
        list[str] | None, typer.Option(help="With {token} for the new word; repeatable. Default: the run's previews'.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Pictures of each prompt.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of their noise.", min=0)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler.", min=1)] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance.", min=1.0)] = None,
    lora_scale: Annotated[float, typer.Option(help="How much stage 2 counts; 0 is the frozen generator.")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    out: Annotated[Path, typer.Option(help="PNG to write, a row for each prompt.")] = Path("sample.png"),
) -> None:
    """Draw pictures with what a run has learnt."""
    from pti.models.sampling import sample_images
    from pti.runs.image_grid import is_grid, save_image_grid
    from pti.runs.run import load_run

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out names a .png file; got {out}")
    target = check_output_file(out, is_grid, maker="pti sample")
    if not math.isfinite(lora_scale):
        raise ConfigError(f"--lora-scale is a finite number; got {lora_scale}")
    silence()
    run = load_run(folder, device=_device(device), pictures=False)
    defaults = run.config.sampling
    count = defaults.images_per_prompt if count is None else count
    prompts = [p for p in (prompt or defaults.prompts) for _ in range(count)]
    pictures = sample_images(
        run.model,
        prompts,
        seed=defaults.seed if seed is None else seed,
        steps=defaults.num_inference_steps if steps is None else steps,
        guidance=defaults.guidance_scale if guidance is None else guidance,
        lora_scale=lora_scale,
        size=run.config.data.resolution,
    )
    save_image_grid(target, pictures, count, run.marks)
    print(f"pictures: {out}")


def _until(last: str) -> tuple[str, ...]:
    from pti.workflow import STAGES

    if last not in STAGES:
        raise ConfigError(f"--until is one of {', '.join(STAGES)}; got {last!r}")
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

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, found in there.items() if found)
    if not there.get(name.partition(":")[0], False):
        raise ConfigError(f"device {name!r} is not available here; use --device auto")
    return name
