"""The command line of `lwexp.report`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lwexp.config.command_options import Parser, exit_code_of, number, tracking_config
from lwexp.errors import ConfigError, LwexpError

from .studies.reading import NAME, study_file

_OPTIONS = ["tracking.uri", "tracking.experiment", "tracking.timeout"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a failure, 2 for invalid arguments (one line)."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code_of("lwexp-report", lambda: _report(given))


def _report(arguments: Sequence[str]) -> int:
    what = "Report what can be concluded from runs in MLflow: a sweep, several, or any runs; tables, text, figures."
    what += " Or from studies, whose study.csv is all it takes."
    parser = Parser("lwexp-report", what, _OPTIONS)
    parser.add_argument(
        "words", nargs="*", metavar="sweep, run or tracking.key=value",
        help="ids or their first digits, folders, names of sweeps (default: the latest sweep of the experiment); "
        "or study.csv files, or folders that hold one",
    )  # fmt: skip
    parser.add_argument("--filter", help="and the experiment's runs that match, as in MLflow: \"params.lr = '0.01'\"")
    parser.add_argument("--experiment", help="the same as tracking.experiment")
    parser.add_argument("--metric", help="such as accuracy, loss: as val/… and test/… (default: what the runs monitor)")
    parser.add_argument("--reference", metavar="ARM", help="of studies: compare with this arm (default: as planned)")
    parser.add_argument("--confidence", default="0.95", help="of all intervals and tests (default: 0.95)")
    parser.add_argument(
        "-o", "--out", type=Path, help="folder for the files (default: outputs/reports/<start>_<id> or study_<name>)"
    )
    parser.add_argument("--no-attach", action="store_true", help="leave the sweep's run in MLflow as it is")
    parsed = parser.parse_intermixed_args(arguments)
    # a sweep's name is what was typed for it, such as "mult=0.9,1.0 seed=0,1"
    options = [word for word in parsed.words if word.startswith("tracking.") and "=" in word]
    words = [word for word in parsed.words if word not in options]
    if parsed.experiment is not None:
        options.append(f"tracking.experiment={parsed.experiment}")
    confidence = number("--confidence", parsed.confidence, float)
    if not 0.5 <= confidence < 1:
        raise ConfigError("--confidence", parsed.confidence, "must be from 0.5 to below 1")
    files = [study_file(word) for word in words]
    if any(files):
        given = {"--filter": parsed.filter, "--metric": parsed.metric, **dict(o.split("=", 1) for o in options)}
        found = [file for file in files if file]
        return _report_studies(words, found, given, parsed.out, confidence, parsed.reference)
    from .build import find_study, make_report

    tracking = tracking_config(options, _OPTIONS)
    try:
        study = find_study(tracking, Path.cwd(), *words, query=parsed.filter)
    except LwexpError:
        if parsed.reference is None:
            raise
        study = None
    if study is not None:
        given = {"--metric": parsed.metric}
        return _report_studies([str(study)], [study], given, parsed.out, confidence, parsed.reference)
    if parsed.reference is not None:
        raise ConfigError(
            "--reference", parsed.reference, "is for studies; runs in MLflow are compared with uniform rates"
        )
    report = make_report(
        tracking,
        Path.cwd(),
        *words,
        query=parsed.filter,
        metric=parsed.metric,
        confidence=confidence,
        out=parsed.out,
        attach=not parsed.no_attach,
    )
    print(report.text)
    also = ", attached to the sweep's run in MLflow (report/)" if report.attached else ""
    print(f"\nreport: {os.path.relpath(report.folder / 'report.html')}{also}")
    if report.problem is not None:
        print(f"lwexp-report: {report.problem}", file=sys.stderr)
        return 1
    return 0


def _report_studies(
    words: Sequence[str], files: Sequence[Path], given: Mapping[str, str | None], out: Path | None, confidence: float,
    reference: str | None,
) -> int:  # fmt: skip
    """Report on studies from their files; `given`: options for runs in MLflow, which do not apply."""
    other = next((word for word in words if study_file(word) is None), None)
    if other is not None:
        raise ConfigError("study", other, f"is no study, as {files[0]} is; report on studies and on runs separately")
    for key, value in given.items():
        if value is not None:
            raise ConfigError(key, value, f"is for runs in MLflow; {files[0]} is a study, which is read from its file")
    from .studies import report_study

    file = files[0].resolve()
    name = file.parent.name if file.name == NAME else file.stem
    more = f"_and_{len(words) - 1}_more" if len(words) > 1 else ""
    folder = out or Path.cwd() / "outputs" / "reports" / f"study_{name}{more}"
    print(report_study(files, folder, confidence=confidence, reference=reference))
    print(f"\nreport: {os.path.relpath(folder / 'study_report.md')}")
    return 0
