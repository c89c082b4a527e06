"""The header reader, fed by atheris: inputs that reach a line of it for the first time are kept and changed further.

    python -m fuzz.guided -runs=10000 -seed=1          (options of libFuzzer; tests and the project on PYTHONPATH)

Ends with a status other than 0 and the traceback when the reader raises what is no refusal.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

#: The first byte of an input says which.
_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.90",
)


def read_one(content: bytes) -> None:
    """One input: a byte for the transfer syntax, and a data set.

    Raises
    ------
    AssertionError
        A refusal that repeats what it should not.
    Exception
        Whatever else the reader raises besides a refusal.
    """
    from fuzz.reader import read_header_of

    if content:
        read_header_of(_SYNTAXES[content[0] % len(_SYNTAXES)], content[1:])


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    # It has no types, and is not there in most installations.
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["node.header", "node.elements", "node.mentions"]):
        importlib.import_module("node.header")
    from fuzz.files import seeds

    with TemporaryDirectory(prefix="osteonode-fuzz-") as folder:
        for number, sample in enumerate(seeds(None, 0)):
            syntax = sample.transfer_syntax_uid
            if syntax in _SYNTAXES:
                first = bytes([_SYNTAXES.index(syntax)])
                (Path(folder) / f"{number}").write_bytes(first + sample.data)
        atheris.Setup(
            [*sys.argv, "-max_len=20000", "-timeout=5", f"-artifact_prefix={folder}/", folder],
            read_one,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
