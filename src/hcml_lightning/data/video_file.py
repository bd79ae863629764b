"""[**video file → packets** → time stamps → frames → batch → model → loss → metric]

Open a video file, or the content of one, for decoding: which formats are accepted, which decoder is used, and how
errors name the file.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

# Formats that contain their video. FFmpeg also knows text formats, such as playlists, that make it read any other file
# that they name; it recognises them by their content, whatever the name of the file.
FORMATS = ",".join(
    (
        "avi",
        "matroska,webm",
        "mov,mp4,m4a,3gp,3g2,mj2",
        "mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf",
        "flv,asf,ogg,gif,nut,dv,rm,mxf",
        # Accepted so that a file with sound only is reported as such, and not as damaged.
        "wav,mp3,flac,aac",
    )
)
# Twice the pixels of 8K video; without a limit, a header of a few bytes can announce frames that fill the memory.
LARGEST_FRAME = 2**26


class VideoError(ValueError):
    """A video that cannot be read as asked; the message names the file and what is wrong with it."""


class MissingVideoError(VideoError, FileNotFoundError):
    """A video that does not exist."""


def cannot_open(path: str, error: OSError) -> VideoError:
    """Return the error for a file that the system cannot open, with the reason."""
    kind = MissingVideoError if isinstance(error, FileNotFoundError) else VideoError
    return kind(f"{path}: cannot be opened ({error.strerror}).")


def name_of(path: str | bytes) -> str:
    """Return the name of a video for messages.

    Example:
        >>> name_of("a.mp4"), name_of(b"...")
        ('a.mp4', 'a video given as 3 bytes')
    """
    return path if isinstance(path, str) else f"a video given as {len(path)} bytes"


@contextmanager
def open_video(path: str | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file to decode it in one thread; turn errors of FFmpeg into a `VideoError` with the name of the file."""
    try:
        # Some intact files have metadata that are not UTF-8. Without `file:`, a name could be taken for a URL.
        file = io.BytesIO(path) if isinstance(path, bytes) else f"file:{path}"
        with av.open(
            file,
            "r",
            metadata_errors="ignore",
            options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        ) as container:
            if not container.streams.video:
                raise VideoError(f"{name_of(path)}: the file has no video stream.")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise VideoError(
                    f"{name_of(path)}: the codec of the video stream is unknown; the file is damaged, or FFmpeg was "
                    "built without that codec."
                )
            check_size(name_of(path), context.width, context.height)
            _use_one_thread(context)
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        problem = f"{_what_is_wrong(path)} ({error.strerror})"
        raise VideoError(f"{name_of(path)}: {problem}.") from error


def check_size(path: str, width: int, height: int) -> None:
    """Refuse frames of a size that no camera has.

    Raises:
        VideoError: if the frames are too large; the message names the file.
    """
    if width * height > LARGEST_FRAME:
        raise VideoError(
            f"{path}: frames of {width}×{height} pixels exceed the limit of {LARGEST_FRAME / 1e6:.0f} million; the "
            "file is damaged or made to fill the memory."
        )


def exact_decoder(stream: VideoStream) -> VideoCodecContext:
    """Return the decoder that detects damage, if there are several.

    VP9 has no checksums. Only libvpx checks whether the data of a tile end where they should, which they do not after
    nearly every flipped bit; FFmpeg's own decoder continues with wrong pictures. Of an intact file, both give the same
    pictures.
    """
    context = stream.codec_context
    if context.name != "vp9" or "libvpx-vp9" not in av.codecs_available:
        return context
    exact = av.CodecContext.create("libvpx-vp9", "r")
    exact.extradata = context.extradata
    _use_one_thread(exact)
    return exact


def _use_one_thread(context: VideoCodecContext) -> None:
    # Parallelism belongs to the workers of the data loader; threads of FFmpeg would compete with them.
    context.thread_type = "NONE"
    context.thread_count = 1


def _what_is_wrong(path: str | bytes) -> str:
    try:
        start = path[:256] if isinstance(path, bytes) else _start_of(path)
    except OSError:
        return "the file cannot be read"
    if start.lstrip(b"\xef\xbb\xbf").startswith((b"#EXTM3U", b"ffconcat")):
        return "the file is a playlist, which names other files; pass those files instead"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a git-LFS pointer, not the video itself; fetch it with `git lfs pull`"
    if start.isascii() and start.decode().replace("\n", " ").strip().isprintable():
        return "the file is text, not a video"
    return "the file is not a video, or it is damaged or cut short"


def _start_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(256)
