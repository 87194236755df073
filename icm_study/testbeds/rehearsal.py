"""Tell what would stop a run on a folder of images by an encoder, before anything is embedded.

``python -m icm_study.testbeds.rehearsal FOLDER --encoder NAME`` is the check of the folder
(see `icm_study.photographs.check`), and asks the encoder for the prompts of the classes: it
may not know a word, or cut two classes to the same words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.photographs.check import check_as_told, command_line
from icm_study.testbeds.base import PROTOCOLS
from icm_study.testbeds.image_folder import ImageFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m icm_study.testbeds.rehearsal FOLDER --encoder NAME``.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's words.

    Returns
    -------
    int
        0 if a run could start, 1 otherwise.
    """
    parser = command_line(
        "python -m icm_study.testbeds.rehearsal",
        "Check a folder of images, and whether an encoder tells its classes apart.",
    )
    parser.add_argument("--encoder", required=True, help="its name, such as ViT-B-16/openai")
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    options = vars(parser.parse_args(arguments))
    encoder, protocol = options.pop("encoder"), options.pop("protocol")
    try:
        report = check_as_told(options)
        print(report)
        if not report.sound:
            return 1
        bed = ImageFolder(Path(report.root).name, report.images, protocol=protocol)
        bed.check_splits(bed.targets(), seed=0)
        with TemporaryDirectory() as place:
            bed.prompts(Embedder(load_encoder(encoder), EmbeddingStore(place)))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{encoder!r} tells the {len(bed.words)} classes apart.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
