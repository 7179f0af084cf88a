"""Settings of one task head, and their two forms in JSON: a plain one, and multimolecule's fields of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from model.errors import CheckpointError

Kind = Literal["sequence", "token", "contact", "structure"]
Problem = Literal["regression", "binary", "multiclass", "multilabel"]

KINDS: tuple[Kind, ...] = get_args(Kind)
PROBLEMS: tuple[Problem, ...] = get_args(Problem)
ACTIVATIONS = ("gelu", "gelu_new", "relu", "leaky_relu", "elu", "silu", "swish", "mish", "tanh", "sigmoid", "linear")
"""Activations by transformers' names: "gelu" is the exact one, "gelu_new" its tanh form, "linear" none."""

_POOLINGS = ("pooler", "mean", "cls", "max")
_TRANSFORMS = (None, "linear", "nonlinear")
# How transformers calls two of the problems.
_TRANSFORMERS: dict[str, Problem] = {
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
}
# The fields of multimolecule's HeadConfig (0.0.8 and 0.2.2). The last three say nothing about what a head of known kind
# computes.
_SHARED = ("dropout", "transform", "transform_act", "bias", "act")
_READ = (*_SHARED, "num_labels", "problem_type", "layer_norm_eps", "hidden_size")
_HEAD_FIELDS = (*_READ, "output_name", "type", "loss_weight")


@dataclass(frozen=True)
class HeadConfig:
    """Everything that fixes the shape and the arithmetic of a task head and the meaning of its outputs.

    Attributes:
        kind: what it reads and gives: "sequence" one vector -> (C,), "token" every nucleotide -> (L, C), "contact"
            every pair of nucleotides -> (L, L, C), "structure" the same by convolutions -> (L, L).
        problem: what the outputs are. None: the checkpoint does not say; a loss infers it from the labels. A structure
            head is always binary.
        num_labels: C, outputs per sequence, nucleotide or pair. 1 where `problem` is binary, at least 2 for multiclass.
        labels: names of the C outputs; () where none are known.
        pooling: what vector of the sequence a sequence head reads: "pooler" is multimolecule's pooler_output.
        transform: what stands before the last linear map: nothing, "linear" (dense, layer norm) or "nonlinear" (dense,
            activation, layer norm).
        transform_act: that activation, one of `ACTIVATIONS`.
        act: activation of the logits, None for none.
        dropout: of what the head reads; in training only.
        bias: whether the last linear map has one.
        norm_eps: epsilon of the transform's layer norm.
        threshold: probability above which an output counts as positive; None stands for 0.5.

    Raises:
        CheckpointError: a value that is none of these, or values that contradict each other.
    """

    kind: Kind
    problem: Problem | None = None
    num_labels: int = 1
    labels: tuple[str, ...] = ()
    pooling: Literal["pooler", "mean", "cls", "max"] = "pooler"
    transform: Literal["linear", "nonlinear"] | None = None
    transform_act: str = "gelu"
    act: str | None = None
    dropout: float = 0.0
    bias: bool = True
    norm_eps: float = 1e-12
    threshold: float | None = None

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        if self.kind == "structure" and self.problem is None:
            object.__setattr__(self, "problem", "binary")
        _one_of("problem", self.problem, (None, *PROBLEMS))
        _one_of("pooling", self.pooling, _POOLINGS)
        _one_of("transform", self.transform, _TRANSFORMS)
        _one_of("transform_act", self.transform_act, ACTIVATIONS)
        _one_of("act", self.act, (None, *ACTIVATIONS))
        _one_of("bias", self.bias, (True, False))
        if not isinstance(self.num_labels, int) or isinstance(self.num_labels, bool) or self.num_labels < 1:
            raise CheckpointError(f"num_labels must be a whole number above 0, not {self.num_labels!r}")
        if not _number(self.dropout) or not 0 <= self.dropout < 1:
            raise CheckpointError(f"dropout must be from 0 to below 1, not {self.dropout!r}")
        if not _number(self.norm_eps) or not 0 < self.norm_eps < 1:
            raise CheckpointError(f"norm_eps must be above 0 and below 1, not {self.norm_eps!r}")
        if self.threshold is not None and (not _number(self.threshold) or not 0 <= self.threshold < 1):
            raise CheckpointError(f"threshold is a probability, from 0 to below 1, not {self.threshold!r}")
        self._check_labels()
        self._check_kind()

    @property
    def label_names(self) -> tuple[str, ...]:
        """C names: those of the checkpoint, else "0", "1", ..."""
        return self.labels or tuple(str(i) for i in range(self.num_labels))

    @classmethod
    def from_json(cls, settings: Mapping[str, Any], *, where: str) -> HeadConfig:
        """Read what `to_json` writes; fields may be absent (then the default holds), `kind` may not.

        Args:
            settings: the parsed object.
            where: what it was read from, for messages.

        Raises:
            CheckpointError: an unknown field or value.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise CheckpointError(f"{where}: unknown field {key!r} of a head; known are {', '.join(known)}")
        if "kind" not in settings:
            raise CheckpointError(f"{where}: the head's kind is not given ({', '.join(KINDS)})")
        values = dict(settings)
        if isinstance(values.get("labels"), list):
            values["labels"] = tuple(values["labels"])
        return _make(values, where)

    def to_json(self) -> dict[str, Any]:
        """All fields as an object for JSON."""
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_multimolecule(
        cls, settings: Mapping[str, Any], kind: Kind, num_labels: int | None = None, *, where: str
    ) -> HeadConfig:
        """The settings of a checkpoint's head, from its config.json.

        Where this package wrote it, `raypipe.heads.<kind>` says everything. Else multimolecule's fields do: `head` (its
        HeadConfig) first, then `num_labels`, `problem_type` and `id2label` of the whole.

        Args:
            settings: the parsed config.json.
            kind: of the head.
            num_labels: C as the checkpoint's tensors have it; None where there are none to look at.
            where: what it was read from, for messages.

        Raises:
            CheckpointError: a field of `head` that is not known, an unknown value, or a number of labels that is not
                that of the tensors.
        """
        _one_of("kind", kind, KINDS)
        own = _object(_object(settings, "raypipe", where), "heads", where)
        if kind in own:
            config = cls.from_json(_object(own, kind, where), where=f"{where} (raypipe.heads.{kind})")
            if config.kind != kind:
                raise CheckpointError(f"{where}: raypipe.heads.{kind} describes a {config.kind} head")
        else:
            config = _make(_from_fields(settings, kind, num_labels, where), where)
        if num_labels is not None and config.num_labels != num_labels:
            raise CheckpointError(
                f"{where} gives the {kind} head {config.num_labels} labels, its tensors have {num_labels}"
            )
        return config

    def to_multimolecule(self) -> dict[str, Any]:
        """What to merge into config.json so that multimolecule and this package find the head there.

        The problem stands inside `head`, because transformers refuses multimolecule's names at the top. multimolecule
        has no place for a pooling, a threshold or a second head, so all settings stand in `raypipe.heads.<kind>` too;
        a checkpoint with several heads joins these, and its multimolecule fields are those of one of them.
        """
        head = {name: getattr(self, name) for name in _SHARED}
        # multimolecule's structure head takes this field for its convolutions, which have none.
        head["bias"] = self.bias and self.kind != "structure"
        head |= {"num_labels": self.num_labels, "problem_type": self.problem, "layer_norm_eps": self.norm_eps}
        named = bool(self.labels)
        return {
            "head": head,
            "num_labels": self.num_labels,
            "id2label": {str(i): name for i, name in enumerate(self.labels)} if named else None,
            "label2id": {name: i for i, name in enumerate(self.labels)} if named else None,
            "raypipe": {"heads": {self.kind: self.to_json()}},
        }

    def _check_labels(self) -> None:
        labels = self.labels
        if not isinstance(labels, tuple) or not all(isinstance(name, str) and name for name in labels):
            raise CheckpointError(f"labels must be names, not {labels!r}")
        if labels and len(labels) != self.num_labels:
            raise CheckpointError(f"{len(labels)} names of labels for num_labels = {self.num_labels}")
        if len(set(labels)) < len(labels):
            raise CheckpointError(f"two labels have one name: {', '.join(labels)}")
        if self.problem == "binary" and self.num_labels != 1:
            raise CheckpointError(
                f"a binary head has one output, not {self.num_labels}; several yes-or-no outputs are multilabel, one "
                "choice out of several is multiclass"
            )
        if self.problem == "multiclass" and self.num_labels == 1:
            raise CheckpointError("a multiclass head needs at least 2 labels; yes or no is binary")

    def _check_kind(self) -> None:
        if self.kind != "sequence" and self.pooling != "pooler":
            raise CheckpointError(f"pooling={self.pooling!r}: only a sequence head reads a pooled vector")
        if self.kind != "structure":
            return
        if self.problem != "binary":
            raise CheckpointError(f"a structure head is binary, not {self.problem}")
        if self.transform is not None or self.act is not None or self.dropout or not self.bias:
            raise CheckpointError("a structure head has a fixed form: no transform, act or dropout, and a bias")


def _make(values: Mapping[str, Any], where: str) -> HeadConfig:
    try:
        return HeadConfig(**values)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _from_fields(settings: Mapping[str, Any], kind: Kind, num_labels: int | None, where: str) -> dict[str, Any]:
    head = _object(settings, "head", where)
    for key in head:
        if key not in _HEAD_FIELDS:
            raise CheckpointError(
                f"{where}: unknown field {key!r} of head; this version knows {', '.join(_HEAD_FIELDS)}"
            )
    width = head.get("hidden_size")
    if width is not None and width != settings.get("hidden_size"):
        raise CheckpointError(f"{where}: a head of hidden_size {width!r} on an encoder of another width")
    if kind == "structure":
        # It has one output and one problem, whatever the fields say that multimolecule fills in for every model.
        return {"kind": kind, "labels": _labels(settings, 1, where)}
    count = head.get("num_labels")
    if count is None:
        count = settings.get("num_labels")
    if count is None:
        count = 1 if num_labels is None else num_labels
    problem = head.get("problem_type") or settings.get("problem_type")
    values = {name: head[name] for name in _SHARED if name in head}
    if values.get("transform") != "nonlinear":
        # Nothing reads it, and multimolecule allows null there.
        values.pop("transform_act", None)
    if "layer_norm_eps" in head:
        values["norm_eps"] = head["layer_norm_eps"]
    return values | {
        "kind": kind,
        "num_labels": count,
        "problem": _TRANSFORMERS.get(problem, problem) if isinstance(problem, str) else problem,
        "labels": _labels(settings, count, where),
    }


def _labels(settings: Mapping[str, Any], count: object, where: str) -> tuple[str, ...]:
    """Names out of id2label; transformers' own LABEL_0, LABEL_1, ... name nothing."""
    names = _object(settings, "id2label", where)
    if all(name == f"LABEL_{key}" for key, name in names.items()):
        return ()
    try:
        ordered = tuple(names[key] for key in sorted(names, key=int))
    except ValueError:
        raise CheckpointError(f"{where}: the keys of id2label must be numbers") from None
    # Of two names for one output the second is that of the positive answer.
    return ordered[1:] if count == 1 and len(ordered) == 2 else ordered


def _object(settings: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = settings.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where}: {key} holds no JSON object")
    return value


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not isinstance(value, str | bool | None) or value not in allowed:
        raise CheckpointError(f"{name} is {value!r}; it can be {', '.join(str(x) for x in allowed)}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
