"""Export a run's model, and compare the file in a fresh process with the run.

    python -m src.export RUN [--format onnx|pt2|torchscript] [--int8] [--trust]

The file takes raw input, as the task does, and returns `probability` for classes or `value` in the
target's unit; of a module without Kindling's `outputs`, the plain `forward` is exported.
"""

from __future__ import annotations

from typing import Any

from src.kindling.config.command import Parser, run_command
from src.kindling.config.errors import format_float
from src.kindling.deploy.export_files import WRITERS
from src.kindling.runs.files import display_path


def main(argv: list[str]) -> dict[str, dict[str, Any]]:
    parser = Parser("export", __doc__)
    parser.add_run()
    parser.add_argument("--format", choices=tuple(WRITERS), default="onnx", help="default: onnx")
    parser.add_argument("--int8", action="store_true", help="also write an 8-bit ONNX file")
    flags = parser.read(argv)
    from src.kindling.config import instantiate
    from src.kindling.deploy.export import export
    from src.kindling.training.trained_run import load_run, one_line

    run = load_run(flags.run, flags.trust)
    with one_line(run):
        instantiate.check(run.config, trained=True)
        reports = export(run, flags.format, flags.int8)
    if flags.format == "torchscript":
        print("torchscript is deprecated in PyTorch; use --format pt2")
    for report in reports.values():
        shape, kilobytes = ", ".join(map(str, report["input"]["shape"])), report["bytes"] / 1000
        form = f"{report['input']['type']} ({shape}) to {report['output']['name']}"
        print(f"{report['file']}: {kilobytes:,.0f} kB, {form}")
        difference = f"{report['samples']} samples: largest difference {report['difference']:.1e}"
        if report["agreement"] is not None:
            difference += f", {report['agreement']:.0%} of the classes agree"
        print(f"  verified {difference}")
        speed = [
            f"{f'{ms:.2g}' if ms < 1 else format_float(ms)} ms for {size}"
            for size, ms in report["milliseconds"].items()
        ]
        print(f"  speed    {', '.join(speed)}")
        if "metric" in report:
            score = f"{report['metric']} {report['after']:.4f}, before {report['before']:.4f}"
            print(f"  int8     {score}; {report['bytes_before'] / 1000:,.0f} kB before")
    print(f"saved      {display_path(run.path / 'export')}")
    if (run.path / "report.html").exists():
        from src.kindling.analysis import report as page

        page.report(run)  # which lists the exported files
    return reports


if __name__ == "__main__":
    run_command(main)
