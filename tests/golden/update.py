"""Write the golden values anew, and list what differs from those before: `python -m tests.golden.update [PART …]`.

Parts are runs, reports, names, help; without any of them, all. Commit the files with the change that explains
their differences.
"""

import argparse

from .compare import differences
from .compute import PARTS, VALUES, fresh, stored, written

_SHOWN = 20


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.golden.update", description="Write the golden values anew.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--all", action="store_true", help="list every difference")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    VALUES.mkdir(exist_ok=True)
    for part in arguments.parts or PARTS:
        before, now = stored(part), fresh(part)
        lines = differences(before, now)
        (VALUES / f"{part}.json").write_text(written(now), encoding="utf-8")
        print(f"{part}: {len(lines)} difference(s)" if lines else f"{part}: unchanged")
        shown = lines if arguments.all else lines[:_SHOWN]
        print("".join(f"  {line}\n" for line in shown), end="")
        if len(lines) > len(shown):
            print(f"  … and {len(lines) - len(shown)} more; list them with --all")


if __name__ == "__main__":
    main()
