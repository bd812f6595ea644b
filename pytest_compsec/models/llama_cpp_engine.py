"""llama.cpp's own functions, as far as greedy answers need them: open, tokenize, read, logits.

The C functions are called directly (``llama_cpp`` names them as ``llama.h`` does): the ready-made
``Llama`` class parses the file's chat template, keeps a cache of prefixes between prompts, and
gives the logits of one position only together with those of all.

One sequence at a time, from an empty memory, in pieces of a fixed size: what is computed for a
prompt depends on nothing that was asked before it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_compsec.errors import LoadError, MeasurementError, MissingExtraError

PACKAGE, EXTRA = "llama-cpp-python", "llama-cpp"
#: Tokens that are read at once: llama.cpp's own default for its physical batch.
PIECE = 512
#: Positions of whose logits all are kept at once: 64 rows of 128,000 tokens are 33 MB.
_PIECE_OF_LOGITS = 64
_LEAST_CONTEXT = 1024
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR of ggml.h


def import_library(purpose: str) -> Any:
    """The module ``llama_cpp``. Raises MissingExtraError when it is not installed."""
    try:
        return importlib.import_module("llama_cpp")
    except ModuleNotFoundError as error:
        if error.name != "llama_cpp":
            raise LoadError(
                f"{PACKAGE} is installed, but its dependency {error.name!r} is not: install it "
                f'with pip install "pytest-compsec[{EXTRA}]"'
            ) from error
        raise MissingExtraError(PACKAGE, EXTRA, purpose) from error


class Engine:
    """One GGUF file, opened by llama.cpp on ``device`` (``cpu`` or ``cuda:<index>``).

    ``threads`` is how many the processor's part takes. ``vocabulary`` is the number of tokens,
    ``positions`` how many the model was made for, ``ends`` the tokens that end an answer by the
    file's own account. Raises LoadError with llama.cpp's own words when the file makes no model.
    """

    def __init__(self, path: Path, *, device: str, threads: int) -> None:
        self._library = library = import_library(f"answering with {path.name} in llama.cpp")
        self._threads = threads
        self._on_gpu = device.startswith("cuda")
        with silent(library) as said:
            library.llama_backend_init()
            model = library.llama_model_load_from_file(
                os.fsencode(path), _model_parameters(library, device)
            )
        if not model:
            raise LoadError(
                f"llama.cpp cannot open {path.name}{_because(said)}. Fetch the file again, or "
                f"upgrade {PACKAGE} where the architecture is new, then run `compsec pin`"
            )
        self._model = model
        self._contexts: list[Any] = []  # One at most; a list, so that the finalizer sees it.
        weakref.finalize(self, _free, library, model, self._contexts)
        self._vocabulary = library.llama_model_get_vocab(model)
        self._size = 0
        self._used = 0
        self.vocabulary = int(library.llama_vocab_n_tokens(self._vocabulary))
        self.positions = int(library.llama_model_n_ctx_train(model))
        self.ends = frozenset(
            token
            for token in range(self.vocabulary)
            if library.llama_vocab_is_eog(self._vocabulary, token)
        )

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` by the file's own tokenizer. Special tokens that the text spells
        out become tokens; none is added."""
        data = text.encode("utf-8")
        room = len(data) + 8
        while True:
            tokens = (self._library.llama_token * room)()
            count = self._library.llama_tokenize(
                self._vocabulary, data, len(data), tokens, room, False, True
            )
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def begin(self, total: int) -> None:
        """Forget everything, and make room for ``total`` tokens in all.

        Raises MeasurementError when memory does not suffice for them.
        """
        if total > self._size:
            self._resize(total)
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._contexts[0]), True)
        self._used = 0

    def read(self, tokens: Sequence[int], *, piece: int = PIECE) -> npt.NDArray[np.float32]:
        """Read on from what was read since :meth:`begin`, ``piece`` tokens at a time. Returns the
        logits after the last token, ``[vocabulary]``."""
        kept: npt.NDArray[np.float32] = np.empty((0, self.vocabulary), np.float32)
        for start in range(0, len(tokens), piece):
            part = tokens[start : start + piece]
            kept = self._decode(part, 1 if start + piece >= len(tokens) else 0)
        last: npt.NDArray[np.float32] = kept[0]
        return last

    def read_all(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """As :meth:`read`, but the logits after every token, piece by piece, each
        ``[tokens of the piece, vocabulary]``."""
        for start in range(0, len(tokens), _PIECE_OF_LOGITS):
            part = tokens[start : start + _PIECE_OF_LOGITS]
            yield self._decode(part, len(part))

    def _decode(self, tokens: Sequence[int], keep: int) -> npt.NDArray[np.float32]:
        library, count = self._library, len(tokens)
        batch = library.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for place, token in enumerate(tokens):
                batch.token[place] = token
                batch.pos[place] = self._used + place
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = 0
                batch.logits[place] = place >= count - keep
            with silent(library, descriptors=False) as said:
                status = library.llama_decode(self._contexts[0], batch)
        finally:
            library.llama_batch_free(batch)
        if status != 0:
            raise MeasurementError(f"llama.cpp could not compute (status {status}){_because(said)}")
        self._used += count
        # A copy: the library's memory is written over by the next call.
        rows = [
            np.ctypeslib.as_array(
                library.llama_get_logits_ith(self._contexts[0], place), shape=(self.vocabulary,)
            )
            for place in range(count - keep, count)
        ]
        return np.array(rows, dtype=np.float32).reshape(keep, self.vocabulary)

    def _resize(self, total: int) -> None:
        library = self._library
        # Powers of two, so that longer and longer prompts make a new context a few times only.
        size = min(max(_LEAST_CONTEXT, 1 << (total - 1).bit_length()), max(self.positions, total))
        settings = library.llama_context_default_params()
        settings.n_ctx = size
        settings.n_batch = settings.n_ubatch = PIECE
        settings.n_seq_max = 1
        settings.n_threads = settings.n_threads_batch = self._threads
        settings.offload_kqv = settings.op_offload = self._on_gpu
        self._size = 0
        with silent(library) as said:
            while self._contexts:  # Freed first: memory need not hold two.
                library.llama_free(self._contexts.pop())
            context = library.llama_init_from_model(self._model, settings)
        if not context:
            raise MeasurementError(
                f"llama.cpp cannot make room for {size} tokens{_because(said)}. Free memory, "
                "shorten the prompts or lower max_new_tokens"
            )
        self._contexts.append(context)
        # Not what the library rounds it up to: its batch stays as small as the context asked for,
        # and a piece beyond the batch would abort the process.
        self._size = min(size, int(library.llama_n_ctx(context)))


@contextlib.contextmanager
def silent(library: Any, *, descriptors: bool = True) -> Iterator[list[str]]:
    """Keep llama.cpp off the screen inside the block; yields the errors that it wrote.

    ``descriptors``: also what C code writes past its own log, to file descriptors 1 and 2. Only
    for short blocks: other threads write there too.
    """
    errors: list[str] = []

    def hear(level: int, text: bytes, _: Any) -> None:
        if level == _ERROR_LEVEL and text.strip():
            errors.append(" ".join(text.decode("utf-8", "replace").split()))

    listener = library.llama_log_callback(hear)
    library.llama_log_set(listener, ctypes.c_void_p(0))
    try:
        with _descriptors_closed() if descriptors else contextlib.nullcontext():
            yield errors
    finally:
        library.llama_log_set(_usual_listener(library), ctypes.c_void_p(0))


def supports_gpu(library: Any) -> bool:
    """Whether this build of llama.cpp can compute on a GPU."""
    return bool(library.llama_supports_gpu_offload())


def processor_features(library: Any) -> str:
    """What llama.cpp was built for and found here; answers may differ in the last bits with it."""
    return str(library.llama_print_system_info().decode("utf-8", "replace").strip())


def _model_parameters(library: Any, device: str) -> Any:
    settings = library.llama_model_default_params()
    # Read once, not mapped: what answers later is then what was verified, whatever becomes of
    # the file. Before 0.3.30 or so the field had another name.
    if hasattr(settings, "load_mode"):
        settings.load_mode = library.LLAMA_LOAD_MODE_NONE
    else:
        settings.use_mmap = False
    settings.check_tensors = True
    settings.n_gpu_layers = 0
    if device.startswith("cuda"):
        settings.n_gpu_layers = 0x7FFFFFFF
        settings.split_mode = library.LLAMA_SPLIT_MODE_NONE
        settings.main_gpu = int(device.partition(":")[2] or 0)
    return settings


def _free(library: Any, model: Any, contexts: list[Any]) -> None:
    # A context points into its model, so it goes first. It says goodbye in the log.
    with silent(library, descriptors=False):
        while contexts:
            library.llama_free(contexts.pop())
        library.llama_model_free(model)


def _because(said: Sequence[str]) -> str:
    # The first error is the cause; those after it say that something failed because of it.
    return f" ({said[0][:300]})" if said else ""


def _usual_listener(library: Any) -> Any:
    """The package's own listener, which its ``verbose`` switches steer."""
    logger = importlib.import_module(f"{library.__name__}._logger")
    return logger.llama_log_callback


@contextlib.contextmanager
def _descriptors_closed() -> Iterator[None]:
    saved: list[tuple[int, int]] = []
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # closed in a daemon: nothing to silence
                saved.append((descriptor, os.dup(descriptor)))
                os.dup2(nothing, descriptor)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nothing)
