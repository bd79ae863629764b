"""[video + what was recognised in it → **video with names drawn in**]"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hcml_lightning.data.decode import VideoError, probe, upright_frames
from hcml_lightning.data.video_index import frame_rate
from hcml_lightning.storage import whole
from hcml_lightning.tools.prediction.frame_times import frame_times
from hcml_lightning.tools.prediction.recognizer import Recognition

# Unit of the copy's time stamps, in seconds: 90 kHz is a multiple of all usual frame rates.
_TICK = Fraction(1, 90000)


def annotate(video: str, found: Sequence[Recognition], path: Path, top_k: int) -> None:
    """Write a copy of a video, without sound, with the likeliest classes of each moment drawn into it.

    Args:
        video: video file, or folder of images.
        found: what was recognised in each span; a frame shows the span whose middle is nearest in time.
        path: mp4 file to write; it appears only once it is complete.
        top_k: how many classes are shown.

    Raises:
        VideoError: if the video cannot be read, or cannot be encoded.
    """
    info, times = probe(video), frame_times(video)
    # H.264 in yuv420p stores colour for blocks of 2 × 2 pixels, so the last of an odd number of rows or columns is
    # dropped.
    width, height = info.width // 2 * 2, info.height // 2 * 2
    try:
        with whole(path, ".part.mp4") as partial, av.open(partial, "w") as container:
            stream = container.add_stream("libx264", rate=frame_rate(info), options={"crf": "20"})
            stream.codec_context.time_base = _TICK
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number, frame in enumerate(upright_frames(video)):
                seconds = float(times[number])
                now = min(found, key=lambda span: abs((span.start + span.end) / 2 - seconds))
                picture = frame.to_ndarray(format="rgb24")[:height, :width]
                image = Image.fromarray(picture)
                draw_names(image, now.top(top_k))
                drawn = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
                drawn.pts, drawn.time_base = round(seconds / _TICK), _TICK
                container.mux(stream.encode(drawn))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise VideoError(f"{video}: cannot be encoded ({error})") from error


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font of the system with the letters of many alphabets, or else Pillow's own, which has few."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def draw_names(image: Image.Image, top: Sequence[tuple[str, float]]) -> None:
    """Draw names and probabilities into the upper third of a picture, over bars as long as the probability."""
    size = max(10, image.height // 18)
    font = _font(size)
    draw = ImageDraw.Draw(image, "RGBA")
    rows = max(1, image.height // 3 // (size + 6))
    for row, (name, probability) in enumerate(top[:rows]):
        above = row * (size + 6)
        draw.rectangle((0, above, image.width, above + size + 5), fill=(0, 0, 0, 110))
        length = round(image.width * probability)
        draw.rectangle((0, above, length, above + size + 5), fill=(30, 110, 200, 150))
        draw.text((4, above + 1), f"{name}  {probability:.0%}", font=font, fill="white")
