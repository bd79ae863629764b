"""Count which damaged files each codec and decoder lets pass, and with which pictures.

`python benchmarks/damage_by_codec.py` adds to `results/damage_by_codec.csv`: one row for each codec, decoder and
outcome. The files are cut at a random place or have flipped bits anywhere or in the header. Every file is checked as
`hcml data check` does it, and all frames of those that pass are compared with those of the intact video. VP9 and VP8
are decoded by FFmpeg's own decoders and by libvpx.
"""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from report import FOLDER, record
from robustness import KINDS, damage, outcome_of_frames
from tqdm import trange
from videos import all_frames, write_videos

from hcml_lightning.data import decode
from hcml_lightning.data.decode import VideoError, check_video

FRAMES = 48
# Names in `videos.FORMATS`, and the decoders of each; None stands for FFmpeg's own.
DECODERS: dict[str, tuple[str | None, ...]] = {
    "h264_gop12": (None,),
    "mpeg4_avi": (None,),
    "vp9_webm": (None, "libvpx-vp9"),
    "vp8_webm": (None, "libvpx"),
}


@contextmanager
def decoder(name: str | None) -> Iterator[None]:
    """Let the package decode by the named decoder, or by FFmpeg's own if it is None."""
    before: Callable[[VideoStream], VideoCodecContext] = decode.exact_decoder

    def chosen(stream: VideoStream) -> VideoCodecContext:
        if name is None:
            return stream.codec_context
        other = av.CodecContext.create(name, "r")
        other.extradata = stream.codec_context.extradata
        return other

    decode.exact_decoder = chosen
    try:
        yield
    finally:
        decode.exact_decoder = before


def outcomes(folder: Path, variants: int) -> Iterator[tuple[str, str, str]]:
    """Yield (codec, decoder, outcome) for each damaged file and decoder."""
    for name, path in write_videos(folder, DECODERS, num_frames=FRAMES).items():
        content, truth, draw = path.read_bytes(), all_frames(path), random.Random(0)
        for number in trange(variants, desc=name):
            damaged = folder / f"damaged{path.suffix}"
            damaged.write_bytes(damage(content, KINDS[number % 3], draw))
            for chosen in DECODERS[name]:
                with decoder(chosen):
                    yield name.partition("_")[0], chosen or "FFmpeg", _outcome(str(damaged), truth)


def _outcome(path: str, truth: np.ndarray) -> str:
    try:
        found = check_video(path).num_frames
    except VideoError:
        return "named"
    if found > FRAMES:
        return "WRONG pictures"
    return outcome_of_frames(path, list(range(found)), truth)


def main() -> None:
    """Count and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=300, help="damaged files of each codec")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "damage_by_codec.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = Counter(outcomes(Path(folder), options.variants))
    columns = ("codec", "decoder", "outcome")
    rows = [
        {**dict(zip(columns, case, strict=True)), "count": n} for case, n in sorted(found.items())
    ]
    print(*(list(row.values()) for row in rows), sep="\n")
    record(rows, options.output, ("av", "torch"))


if __name__ == "__main__":
    main()
