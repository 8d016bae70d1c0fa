"""Export a run's model for use elsewhere, and prove the file: loaded in a fresh process, it answers as the run does.

    python -m src.export RUN [--format onnx|pt2|torchscript] [--int8]

The file takes raw input, as the task does, and gives `probability` for classes or `value` in the target's unit. What
prepares the input is inside, and so are, as metadata, the class names, the spec, and for pictures the steps that make raw
input of a file.
"""

from __future__ import annotations

from typing import Any

from src.kindling.config.command import Parser, run_command
from src.kindling.deploy.export import WRITERS, export
from src.kindling.runs.files import shown


def main(argv: list[str]) -> dict[str, dict[str, Any]]:
    parser = Parser("export", "RUN [--format onnx|pt2|torchscript] [--int8]",
                    "Export a run's best checkpoint, and prove that the file answers as the run does.")  # fmt: skip
    parser.add_argument("run", metavar="RUN", help="a folder in logs/, a .ckpt file, 'latest' or '<config>/latest'")
    parser.add_argument("--format", choices=tuple(WRITERS), default="onnx", help="onnx when left out")
    parser.add_argument("--int8", action="store_true", help="a second ONNX file that computes with 8 bits")
    flags = parser.read(argv)
    from src.kindling.training.trained_run import load_run

    run = load_run(flags.run)

    from src.kindling.config import instantiate

    instantiate.check(run.config, trained=True)
    reports = export(run, flags.format, flags.int8)
    if flags.format == "torchscript":
        print("torchscript is deprecated: PyTorch develops it no further; pt2 takes its place")
    for report in reports.values():
        takes, shape = report["input"]["type"], ", ".join(map(str, report["input"]["shape"]))
        agree = "" if report["agreement"] is None else f", {report['agreement']:.0%} of the classes agree"
        print(f"{report['file']}: {report['bytes'] / 1000:,.0f} kB, {takes} ({shape}) to {report['output']['name']}\n"
              f"  proved   {report['samples']} samples: at most {report['difference']:.1e} from the run's answers{agree}\n"
              "  speed    " + ", ".join(f"{ms:.2f} ms for {size}" for size, ms in report["milliseconds"].items()))  # fmt: skip
        if "metric" in report:
            print(f"  int8     {report['metric']} {report['after']:.4f}, before {report['before']:.4f}; "
                  f"{report['bytes'] / 1000:,.0f} kB, before {report['bytes_before'] / 1000:,.0f} kB")  # fmt: skip
    print(f"saved      {shown(run.path / 'export')}")
    if (run.path / "report.html").exists():
        from src.kindling.analysis import report as page

        page.report(run)  # which shows them
    return reports


if __name__ == "__main__":
    run_command(main)
