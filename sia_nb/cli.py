"""The command line: ``python -m sia_nb run | resume | show | verify | replay | controls | reference | figures | report | data | model | doctor``."""

from __future__ import annotations

import argparse
import os
import sys
from inspect import signature
from pathlib import Path

from .errors import ConfigError, SiaError, nearest

EXAMPLES = """\
examples
  python -m sia_nb run                           LawBench, the cpu profile, seed 0
  python -m sia_nb run --profile smoke           does everything work? a few minutes
  python -m sia_nb run --seeds 3 --steps 12      three runs, seeds 0 1 2
  python -m sia_nb run --agent claude            Claude writes the scaffolds (ANTHROPIC_API_KEY)
  python -m sia_nb resume                        go on with the newest unfinished run
  python -m sia_nb show RUN                      what happened, step by step
  python -m sia_nb verify RUN                    is the folder what it says? hashes, provenance, arithmetic
  python -m sia_nb replay RUN                    repeat a finished run without its language models
  python -m sia_nb transfer                      where weights pay: held-out instances, few verifier calls
  python -m sia_nb controls --task denoising     what the same verifier calls come to without the loop
  python -m sia_nb reference --list              the whole study on a CPU: its commands, what is left of them, how long
  python -m sia_nb figures                       redraw every figure and table of the tasks that have runs
  python -m sia_nb report RUN                    one HTML file of a run: its steps, trajectories and numbers, to look through
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 well, 1 an error the user can mend, 2 bad usage, 130 interrupted."""
    parser = _parser()
    args, extra = parser.parse_known_args(argv)
    try:
        if args.command is None:
            parser.print_help()
            return 2
        if extra and args.command != "run":
            raise ConfigError(f"'{extra[0]}' is not known to '{args.command}'; see `python -m sia_nb {args.command} --help`")
        return args.function(args, extra) or 0
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was finished is kept. {_go_on(args)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SiaError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 130 if type(error).__name__ == "Interrupted" else 2 if isinstance(error, ConfigError) else 1


def _go_on(args: argparse.Namespace) -> str:
    """How to take up an interrupted command again."""
    if args.command not in ("run", "resume"):
        return "The same command goes on from there."
    folder = getattr(args, "run_dir", "") or getattr(args, "run", "") or ""
    return f"Go on with: python -m sia_nb resume {folder}".rstrip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sia_nb", epilog=EXAMPLES, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sub = parser.add_subparsers(dest="command", metavar="command")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        p = sub.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        p.set_defaults(function=function)
        return p

    run = command("run", _run, "Run the loop: a run a seed, each to its sealed test and figures.")
    run.add_argument("--profile", default="cpu", help="where the defaults come from: smoke, cpu (default), gpu, paper")
    run.add_argument("--seeds", type=int, default=1, metavar="N", help="how many runs, with seeds SEED … SEED+N-1 (default 1)")
    run.add_argument(
        "--arms", default="", help="arms to run side by side: all, or some of H,W,W+H (default: the one that --arm names)"
    )
    run.add_argument("--jobs", type=int, default=0, metavar="N", help="how many runs at once (default: by cores and memory)")
    run.add_argument("--run-dir", default="", metavar="DIR", help="the run folder (default: results/runs/<name>)")
    run.add_argument("--no-figures", action="store_true", help="stop after the last step; the sealed test stays closed")
    from .config import PROFILE_NOTES, RunConfig

    profiles = "\n".join(f"  {name:8}{note}" for name, note in PROFILE_NOTES.items())
    lines = [
        f"  --{n.replace('_', '-'):22}{f.description} ({f.default!r})"
        for n, f in RunConfig.model_fields.items()
        if n != "profile"
    ]
    run.epilog = (
        f"profiles\n{profiles}\n\n"
        + "parameters of a run, with the defaults of RunConfig; a profile sets its own\n"
        + "\n".join(lines)
    )

    p = command("resume", _resume, "Go on with a run from where it stopped.")
    p.add_argument("run", nargs="?", default="", help="a run folder or its name; default: the newest unfinished one")
    p.add_argument("--no-figures", action="store_true", help="stop after the last step; the sealed test stays closed")
    p.add_argument("--report-only", action="store_true", help="open the sealed test after the last step, but draw nothing")
    p = command("show", _show, "Print a run step by step, or list the runs.")
    p.add_argument("run", nargs="?", default="", help="a run folder or its name; empty lists the runs")
    p.add_argument("--step", type=int, default=0, help="print this step's decision, report and trajectory")
    p.add_argument("--diff", action="store_true", help="with --step: how the scaffold differs from its parent's")
    p = command(
        "verify", _verify, "Check a run's hashes, provenance and arithmetic; names the file and field of what does not hold."
    )
    p.add_argument("run", nargs="+", help="run folders or their names")
    p = command(
        "replay",
        _replay,
        "Repeat a finished run without its language models, bit for bit, and say where it departs from its record.",
    )
    p.add_argument("run", help="a run folder or its name")
    p.add_argument("--out", default="", metavar="DIR", help="where the repeated run goes (default: results/replays/<name>)")
    p.add_argument(
        "--recorded-verdicts",
        action="store_true",
        help="do not ask the verifier: for a run of another machine, whose arithmetic differs",
    )
    p = command("figures", _figures, "Draw the figures and tables from the finished runs and the reference runs.")
    p.add_argument("--task", default="", help="only this task (default: all that have runs)")
    p.add_argument("--profile", default="", help="only runs of this profile (default: the newest finished run's)")
    p.add_argument("--out", default="", metavar="DIR", help="where to (default: results/figures)")
    p = command("report", _report, "Write one HTML file of a run that needs nothing else: a report with the explorer in it.")
    p.add_argument("run", help="a run folder or its name")
    p.add_argument("--out", default="", metavar="FILE", help="where to (default: results/reports/<run>.html)")
    p.add_argument(
        "--events", type=int, default=5000, metavar="N", help="events of its trajectories to take along (default 5000)"
    )
    p = command(
        "transfer", _transfer, "Train on a task's instances, and try the policy on held-out ones with few verifier calls."
    )
    from .study import SIZES

    p.add_argument("--size", default="smoke", help="; ".join(f"{name}: {size.note}" for name, size in SIZES.items()))
    p.add_argument("--task", default="lawbench")
    p.add_argument("--name", default="", help="the study's name (default: <task>-<size>); the same name goes on where it stopped")
    p.add_argument("--algorithm", default="grpo", help="of the weight update (default grpo)")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter of it; may be repeated")
    p.add_argument("--seeds", type=int, default=0, metavar="N", help="trainings, with seeds 0 … N-1")
    p.add_argument("--searches", type=int, default=0, metavar="N", help="runs of every arm on each held-out instance, a seed")
    p.add_argument("--calls", type=int, default=0, metavar="N", help="distinct verifier calls of a run at most")
    p.add_argument("--only", type=int, action="append", default=[], metavar="SEED", help="do this seed only; may be repeated")
    p.add_argument("--threads", type=int, default=1, help="of the policy (default 1)")
    p.add_argument("--workers", type=int, default=2, help="verdicts side by side (default 2)")
    p.add_argument("--publish", action="store_true", help="also write results/reference/transfer/<name>.json")
    p.add_argument("--redraw", action="store_true", help="only draw the finished or committed study of that name")
    p.add_argument("--out", default="", metavar="DIR", help="where the figure goes (default: results/figures)")
    p = command(
        "controls",
        _controls,
        "Spend a run's verifier calls by random search, local search and the untrained policy's answers, and report as a run does.",
    )
    p.add_argument("--task", default="lawbench")
    p.add_argument("--instance", default="", help="of the task (default: the paper's)")
    p.add_argument("--profile", default="cpu", help="whose number of calls and policy are taken (default cpu)")
    p.add_argument("--arms", default="all", help="some of random,local,best_of_n (default: all)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="the seed, or the first of several (default 0)")
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="how many, with seeds S … S+N-1 (default 1)")
    p.add_argument("--calls", type=int, default=0, metavar="N", help="distinct verifier calls (default: all that a run has)")
    p.add_argument("--dtype", default="auto", help="number format of the policy: auto (default), float32, bfloat16")
    p.add_argument("--threads", type=int, default=1, help="of the policy (default 1)")
    p.add_argument("--publish", action="store_true", help="also copy them to results/reference/controls")
    p = command(
        "reference", _reference, "Repeat the study on a CPU: all arms, seeds and controls of the tasks, then the figures."
    )
    p.add_argument("--task", default="all", help="tasks with commas between (default all: lawbench,denoising,trimul)")
    p.add_argument("--profile", default="cpu", help="of all of it (default cpu)")
    p.add_argument("--seeds", type=int, default=0, metavar="N", help="of each task (default: as many as the committed runs have)")
    p.add_argument("--jobs", type=int, default=0, metavar="N", help="how many runs at once (default: by cores and memory)")
    p.add_argument("--list", action="store_true", help="only say the commands, what is left of them, and how long it may take")
    p = command("publish", _publish, "Copy finished runs, trimmed, to results/reference, to be committed.")
    p.add_argument("run", nargs="?", default="", help="a run folder or its name")
    p.add_argument("--study", default="", metavar="DIR", help="instead: verify and copy all runs, controls and studies under DIR")
    p.add_argument("--replace", action="store_true", help="with --study: remove the committed ones that these take the place of")
    p = command("data", _data, "Fetch, check and prepare a task's data.")
    p.add_argument("--task", default="lawbench", help="a task, several with commas between, or all (default lawbench)")
    p.add_argument("--seed", type=int, default=0, help="the seed of the train/dev split")
    p.add_argument("--instance", default="", help="also prepare this instance, of those that have to be downloaded")
    p.add_argument("--file", default="", metavar="PATH", help="its file, where one is at hand, instead of a download")
    command("model", _model, "Fetch and convert the embedded model.")
    command("doctor", _doctor, "Say what this machine can do, and what to do about what is missing.")
    return parser


def _overrides(extra: list[str]) -> dict:
    """``--name value`` pairs for RunConfig's fields; ``--flag`` alone means true."""
    from .config import RunConfig, parse_value

    out, i = {}, 0
    while i < len(extra):
        word = extra[i]
        if not word.startswith("--"):
            raise ConfigError(f"'{word}' stands alone; parameters are written --name value")
        name, _, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in RunConfig.model_fields:
            known = [n.replace("_", "-") for n in RunConfig.model_fields]
            raise ConfigError(
                f"parameter '{word}' is not known.{nearest(name.replace('_', '-'), known)} See `python -m sia_nb run --help`."
            )
        if not value:
            if RunConfig.model_fields[name].annotation is bool and (i + 1 == len(extra) or extra[i + 1].startswith("--")):
                value = "true"
            elif i + 1 < len(extra):
                i += 1
                value = extra[i]
            else:
                raise ConfigError(f"parameter '{word}' has no value")
        out[name] = parse_value(name, value)
        i += 1
    return out


def _jobs(args: argparse.Namespace, runs: int) -> int:
    """How many of so many runs at once."""
    from .arms import default_jobs

    if args.jobs < 0:
        raise ConfigError(f"--jobs: {args.jobs}; expected at least 1, or 0 for as many as this machine has room for")
    return args.jobs or default_jobs(runs)


def _run(args: argparse.Namespace, extra: list[str]) -> None:
    from .arms import parse_arms, run_all
    from .config import RunConfig, make_config
    from .loop import run_loop
    from .reference import parse_tasks
    from .store import Run

    if args.seeds < 1:
        raise ConfigError(f"--seeds: {args.seeds}; expected at least 1")
    if args.run_dir and args.seeds > 1:
        raise ConfigError("--run-dir names one folder, but --seeds asks for several runs; leave one of them out")
    overrides = _overrides(extra)
    tasks = parse_tasks(overrides.pop("task", RunConfig.model_fields["task"].default))
    if args.arms and "arm" in overrides:
        raise ConfigError("--arms and --arm both name arms; leave one of them out")
    arms = parse_arms(args.arms or overrides.pop("arm", "H"))
    if args.run_dir and len(arms) > 1:
        raise ConfigError("--run-dir names one folder, but --arms asks for several runs; leave one of them out")
    if args.run_dir and len(tasks) > 1:
        raise ConfigError("--run-dir names one folder, but --task asks for several runs; leave one of them out")
    first = overrides.pop("seed", 0)
    configs = [
        make_config(args.profile, task=task, seed=first + n, arm=arm, **overrides)
        for task in tasks for n in range(args.seeds) for arm in arms
    ]  # fmt: skip
    jobs = _jobs(args, len(configs))
    runs = [Run.create(config, Path(args.run_dir) if args.run_dir else None) for config in configs]
    if len(runs) == 1:
        run_loop(runs[0], figures=not args.no_figures)
    else:
        print(
            f"{len(runs)} runs ({', '.join(tasks)}; {', '.join(arms)}; {args.seeds} seed{'s' * (args.seeds > 1)}), {jobs} at a time.",
            flush=True,
        )
        run_all(runs, jobs, figures=not args.no_figures)
    for run in runs:
        _summary(run)


def _resume(args: argparse.Namespace, _: list[str]) -> None:
    from .loop import run_loop
    from .store import find_run

    if args.no_figures and args.report_only:
        raise ConfigError("--no-figures keeps the sealed test closed and --report-only opens it; leave one of them out")
    run = find_run(args.run) if args.run else _newest_unfinished()
    run_loop(run, figures=not args.no_figures, report_only=args.report_only)
    _summary(run)


def _newest_unfinished():
    from .errors import StoreError
    from .store import Run, results_dir

    folders = sorted((results_dir() / "runs").glob("*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in folders:
        if not (path.parent / "report.json").exists():
            return Run(path.parent)
    raise StoreError("no unfinished run under results/runs; `python -m sia_nb run` starts one")


def _summary(run) -> None:
    path = run.path / "report.json"
    if not path.exists():
        print(f"{run.path.name}: the sealed test has not been opened; `python -m sia_nb resume {run.path.name}` does")
        return
    from .store import read_json

    report = read_json(path)
    for arm, r in report["arms"].items():
        value = r["test"][report["metric"]]
        print(
            f"{run.path.name}  {arm:9} dev {r['dev']:.4f}  sealed test {report['metric']} {value:.4f}  ({r['verifier_calls']:.0f} verifier calls)"
            + (f"  fails there: {r['reason']}" if "reason" in r else "")
        )


def _show(args: argparse.Namespace, _: list[str]) -> None:
    from .view import text

    text.show(args.run, step=args.step, diff=args.diff)


def _verify(args: argparse.Namespace, _: list[str]) -> int:
    from .store import find_folder
    from .verify import verify

    wrong = 0
    for name in args.run:
        found = verify(find_folder(name))
        wrong += bool(found.faults)
        for fault in found.faults:
            print(f"{found.root.name}: {fault}")
        holds = f"{len(found.faults)} faults" if found.faults else "holds"
        print(f"{found.root.name}: {holds}; {found.checked} comparisons" + "".join(f"; {note}" for note in found.notes))
    return 1 if wrong else 0


def _replay(args: argparse.Namespace, _: list[str]) -> int:
    from .replay import replay
    from .store import find_folder

    source = find_folder(args.run)
    verdicts = "recorded" if args.recorded_verdicts else "anew"
    outcome = replay(source, Path(args.out) if args.out else None, verdicts=verdicts)
    print(f"{source.name}: {outcome}")
    return 1 if outcome.departure or outcome.shown else 0


def _figures(args: argparse.Namespace, _: list[str]) -> None:
    from .store import cores
    from .view.everything import draw

    where = {"profile": args.profile, "out": Path(args.out) if args.out else None}
    draw([args.task] if args.task else None, jobs=min(4, cores()), **where)


def _report(args: argparse.Namespace, _: list[str]) -> None:
    from .view.explorer.page import page

    if args.events < 0:
        raise ConfigError(f"--events: {args.events}; expected at least 0")
    print(page(args.run, Path(args.out) if args.out else None, events=args.events))


def _transfer(args: argparse.Namespace, _: list[str]) -> None:
    from .study import make_plan, parse_hyper, progress_line, transfer_study
    from .view.transfer import find, transfer_figure

    for name in ("workers", "threads"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}: {getattr(args, name)}; expected at least 1")
    plan = make_plan(
        args.size, task=args.task, name=args.name, algorithm=args.algorithm, seeds=args.seeds, searches=args.searches,
        calls=args.calls, hyper=parse_hyper(args.set),
    )  # fmt: skip
    how = {"publish": args.publish, "threads": args.threads, "workers": args.workers, "echo": progress_line}
    path = find(plan.name) if args.redraw else transfer_study(plan, only=tuple(args.only), **how)
    if path is None:
        return
    files, said = transfer_figure(path, out=Path(args.out) if args.out else None)
    print("\n" + "\n".join(said) + f"\n\ndata {path}\nfigure {files['svg']} (and pdf, png, csv)")


def _controls(args: argparse.Namespace, _: list[str]) -> None:
    from .config import make_config
    from .controls import Control, parse_arms, publish
    from .study import progress_line

    if args.seeds < 1:
        raise ConfigError(f"--seeds: {args.seeds}; expected at least 1")
    how = {"task": args.task, "instance": args.instance, "dtype": args.dtype, "threads": args.threads}
    configs = [make_config(args.profile, seed=args.seed + n, **how) for n in range(args.seeds)]
    wanted = [Control(arm, config, args.calls, progress_line) for config in configs for arm in parse_arms(args.arms)]
    for control in wanted:
        told = control.run()
        progress_line("")
        print(
            f"{told['task']}  {told['arm']:9} seed {told['seed']}: {told['used']} distinct calls of {told['calls']} "
            f"({told['samples']} proposals, {told['valid']} valid)  dev {told['dev']:.4f}  sealed test {told['metric']} "
            f"{told['test'][told['metric']]:.4f}  {told['seconds']:.0f} s"
            + (f"  fails there: {told['reason']}" if "reason" in told else "")
            + ("  (the fallback: nothing better was found)" if told["fallback"] else "")
        )
        print(f"  {publish(control) if args.publish else control.folder}")


def _reference(args: argparse.Namespace, _: list[str]) -> None:
    from .reference import announcement, parse_tasks, parts

    jobs = _jobs(args, 100)
    todo = parts(parse_tasks(args.task), args.seeds, args.profile)
    print(announcement(todo, jobs), flush=True)
    for part in () if args.list else todo:
        if part.of and not part.left:
            continue
        print(f"\n== {part.line}", flush=True)
        code = main([*part.argv, "--jobs", str(jobs)] if part.argv[0] == "run" else list(part.argv))
        if code:
            raise SiaError(f"'{part.line}' ended with status {code}; the same command goes on from there")


def _publish(args: argparse.Namespace, _: list[str]) -> None:
    from .store import find_run, publish

    if bool(args.run) == bool(args.study):
        raise ConfigError("publish: name either a run or, with --study, a folder of finished ones")
    if args.study:
        from .reference import publish_study

        for path in publish_study(Path(args.study), replace=args.replace):
            print(path)
        return
    print(publish(find_run(args.run)))


def _data(args: argparse.Namespace, _: list[str]) -> None:
    from .reference import parse_tasks
    from .store import data_dir
    from .tasks import get_task

    named = {n: v for n, v in (("instance", args.instance), ("file", args.file and Path(args.file))) if v}
    for task in parse_tasks(args.task):
        fetch = get_task(task).fetch
        if named and not set(named) <= set(signature(fetch).parameters):
            raise ConfigError(f"data: task '{task}' downloads no instance apart, so --{next(iter(named))} has no meaning for it.")
        report = fetch(data_dir(), seed=args.seed, **named)
        for name, digest in report["files"].items():
            print(f"{digest[:16]}  {name}")


def _model(args: argparse.Namespace, _: list[str]) -> None:
    from .policy.model import fetch
    from .store import data_dir

    print(f"the embedded model is ready: {fetch(data_dir())['name']}")


def _doctor(args: argparse.Namespace, _: list[str]) -> int:
    from .doctor import examine

    return examine()
