"""Answers which versions to install for a model, feature, hardware and CANN version, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from matrix.claims import Matrix
from matrix.errors import DoesNotFit, NoRelease, NotSupported, UnknownName, did_you_mean
from matrix.released import Claim, Claims, gibibytes
from matrix.ruling import applies
from matrix.schema import CannVersion, Feature, Hardware, Model, QuantisedForm, Release, Rule

EntryT = TypeVar("EntryT")

DEVICES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
"""What a container needs beside one /dev/davinci a device; from Ascend's installation guide."""

MOUNTS = (
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
    "/root/.cache",
)
"""What of the host's driver, and of downloaded weights, a container sees."""


@dataclass(frozen=True)
class Question:
    """What is asked for, found in the matrix.

    Attributes:
        form: quantised weights that were asked for by their repository, or None.
    """

    model: Model
    feature: Feature
    cann: CannVersion
    hardware: Hardware
    form: QuantisedForm | None = None


@dataclass(frozen=True)
class Answer:
    """What to install and to run."""

    question: Question
    claim: Claim
    release: Release
    cards: int
    image: str | None
    container: str
    install: tuple[str, ...]
    serve: str
    request: str | None
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return everything as plain data."""
        release = self.release
        return {
            "cell": self.claim.cell.id,
            "weights": _weights(self.question),
            "versions": {
                "vllm-ascend": release.plugin,
                "vllm": release.vllm,
                "torch": release.torch,
                "torch-npu": release.torch_npu,
                "triton-ascend": release.triton_ascend,
                "cann": self.question.cann.version,
                "python": release.python,
            },
            "cards": self.cards,
            "image": self.image,
            "commands": {
                "container": self.container,
                "install": list(self.install),
                "serve": self.serve,
            },
            "request": self.request,
            "shown_by": [str(showing) for showing in self.claim.shown_by],
            "notes": list(self.notes),
        }


def resolve(
    matrix: Matrix,
    model: str,
    hardware: str,
    feature: str | None = None,
    cann: str | None = None,
    claims: Claims | None = None,
) -> Answer:
    """Return what to install for a model with a feature on some hardware.

    Args:
        matrix: everything that is claimed.
        model: name of a released checkpoint or of a model that is run here, or a repository.
        hardware: name of a range, or of a product.
        feature: by default the first of the model's task.
        cann: a version; by default the one that the current release was made for.
        claims: those of the matrix, for who asks often; making them takes most of the time.

    Raises:
        UnknownName: one of the names is none; with the nearest.
        NoRelease: no release was made for that CANN version.
        DoesNotFit: the weights need more devices than the plugin serves on.
        NotSupported: a rule speaks against it.
    """
    claims = claims or Claims(matrix)
    found, form = _model(matrix, claims, model)
    there = _hardware(claims, hardware)
    wanted = _feature(matrix, found, feature, form)
    question = Question(found, wanted, _cann(matrix, cann), there, form)
    claim = claims.of(found, wanted, question.cann, there, form)
    rule = claim.cell.unsupported
    if rule is not None:
        several = isinstance(rule, Rule) and rule.when.several_cards is not None
        raise _refused(claims, question, rule.reason, fits=not several)
    return _answer(claims, question, claim)


def _find(name: str, entries: Mapping[str, EntryT], sort: str) -> EntryT:
    if name not in entries:
        raise UnknownName(f"There is no {sort} {name!r}.", did_you_mean(name, entries))
    return entries[name]


def _model(matrix: Matrix, claims: Claims, name: str) -> tuple[Model, QuantisedForm | None]:
    repositories: dict[str, tuple[Model, QuantisedForm | None]] = {}
    for released in claims.released.values():
        model = claims.models[released.name]
        repositories[released.repo] = model, None
        repositories |= {form.repo: (model, form) for form in released.forms}
    names = {known: (m, None) for known, m in {**matrix.models, **claims.models}.items()}
    return _find(name, {**repositories, **names}, "model")


def _hardware(claims: Claims, name: str) -> Hardware:
    products = {
        product.lower(): hardware
        for hardware in claims.ranges.values()
        for product in hardware.products
    }
    if name.lower() in products:
        return products[name.lower()]
    return _find(name, claims.ranges, "hardware")


def _feature(matrix: Matrix, model: Model, name: str | None, form: QuantisedForm | None) -> Feature:
    if name is not None:
        return _find(name, matrix.features, "feature")
    if form is not None and "quantisation" in matrix.features:
        return matrix.features["quantisation"]
    return next(f for f in matrix.features.values() if model.task in f.applies_to)


def _cann(matrix: Matrix, version: str | None) -> CannVersion:
    release = matrix.release
    if version is None:
        return matrix.cann[release.stable_cann]
    version = version.removeprefix("cann-")
    if version in matrix.cann and version in release.cann:
        return matrix.cann[version]
    others = [r for r in matrix.releases.values() if version in r.cann]
    pairs = [pair for pair in matrix.torch_npu.values() if pair.cann == version]
    if not others and not pairs and version not in matrix.cann:
        raise UnknownName(
            f"There is no CANN version {version!r}.", did_you_mean(version, release.cann)
        )
    told = f"vllm-ascend {others[0].plugin}, which upstream published for it," if others else ""
    raise NoRelease(
        f"No release of this project is run on CANN {version}.",
        f"The current one, {release.plugin}, is run on {', '.join(release.cann)}.",
        f"The nearest is CANN {_nearest_version(version, release.cann)}"
        + (f"; or install {told} with vLLM {others[0].vllm}." if others else "."),
    )


def _nearest_version(version: str, versions: Iterable[str]) -> str:
    """Return the oldest version that is newer, or the newest there is."""
    from packaging.version import Version

    ordered = sorted(versions, key=Version)
    return next((v for v in ordered if Version(v) > Version(version)), ordered[-1])


def _refused(
    claims: Claims, question: Question, reason: str, *, fits: bool
) -> NotSupported | DoesNotFit:
    sort = NotSupported if fits else DoesNotFit
    id_ = claims.of(question.model, question.feature, question.cann, question.hardware).cell.id
    near = list(_nearest(claims, question))
    fix = "Nearest: " + "; ".join(near) + "." if near else "Nothing near it is supported either."
    return sort(f"{id_} is not supported.", reason, fix)


def _nearest(claims: Claims, question: Question) -> Iterator[str]:
    """Yield, for each part that may change alone, the first change that is supported."""
    q, matrix = question, claims.matrix

    def good(model: Model, feature: Feature, cann: CannVersion, hardware: Hardware) -> bool:
        return claims.of(model, feature, cann, hardware, q.form).cell.unsupported is None

    for form in q.model.checkpoint.forms if q.model.checkpoint.kind == "released" else ():
        quantised = claims.of(q.model, q.feature, q.cann, q.hardware, form)
        if form is not q.form and quantised.cell.unsupported is None:
            yield f"the weights {form.repo} ({form.scheme})"
            break
    versions = [matrix.cann[v] for v in reversed(matrix.release.cann)]
    if cann := next((c for c in versions if good(q.model, q.feature, c, q.hardware)), None):
        yield f"CANN {cann.version}"
    ranges = claims.ranges.values()
    if there := next((h for h in ranges if good(q.model, q.feature, q.cann, h)), None):
        yield f"{there.name} ({there.title})"
    family = claims.families.get(q.model.name)
    siblings = [claims.models[c.name] for c in family.checkpoints] if family else []
    able = [
        m for m in siblings if claims.of(m, q.feature, q.cann, q.hardware).cell.unsupported is None
    ]
    if able:
        yield f"the model {max(able, key=lambda m: m.parameters or 0).name}"
    features = [f for f in matrix.features.values() if applies(q.model, f)]
    if other := next((f for f in features if good(q.model, f, q.cann, q.hardware)), None):
        yield f"the feature {other.name}"


def _answer(claims: Claims, question: Question, claim: Claim) -> Answer:
    matrix, cards = claims.matrix, claim.cards
    release, hardware = matrix.release, question.hardware
    image = release.image and release.image.format(
        cann=question.cann.version.lower(), chip=hardware.image
    )
    serving = matrix.serving.get(question.feature.name)
    return Answer(
        question=question,
        claim=claim,
        release=release,
        cards=cards,
        image=image,
        container=_container(image, cards),
        install=_install(release),
        serve=_serve(claims, question, cards),
        request=serving.request if serving else None,
        notes=tuple(_notes(matrix, question, claim, cards)),
    )


def _weights(question: Question) -> str:
    if question.form:
        return question.form.repo
    checkpoint = question.model.checkpoint
    return checkpoint.repo if checkpoint.kind == "released" else question.model.name


def _container(image: str | None, cards: int) -> str:
    devices = [f"/dev/davinci{number}" for number in range(cards)]
    return " \\\n  ".join(
        [
            "docker run --rm -it --net=host --shm-size=16g",
            *(f"--device {device}" for device in (*devices, *DEVICES)),
            *(f"-v {path}:{path}" for path in MOUNTS),
            f"{image or 'IMAGE'} bash",
        ]
    )


def _install(release: Release) -> tuple[str, ...]:
    packages = f"vllm=={release.vllm} torch=={release.torch} torch-npu=={release.torch_npu}"
    if release.triton_ascend:
        packages += f" triton-ascend=={release.triton_ascend}"
    variables = f"VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE={release.vllm}"
    return (
        f"{variables} pip install --no-binary vllm {packages}",
        f"pip install ./plugin  # in a checkout of this project, version {release.plugin}",
    )


def _serve(claims: Claims, question: Question, cards: int) -> str:
    arguments = [f"vllm serve {_weights(question)}"]
    if question.hardware.image == "310p":
        arguments.append("--dtype float16")
    if cards > 1:
        arguments.append(f"--tensor-parallel-size {cards}")
    serving = claims.matrix.serving.get(question.feature.name)
    arguments += serving.arguments if serving else ()
    family = claims.families.get(question.model.name)
    if family is not None:
        arguments += claims.released[question.model.name].serve
        if family.trust_remote_code:
            arguments.append("--trust-remote-code")
        if family.reasoning_parser:
            arguments.append(f"--reasoning-parser {family.reasoning_parser}")
        if family.tool_parser and question.feature.name == "tool-calls":
            arguments.append(f"--enable-auto-tool-choice --tool-call-parser {family.tool_parser}")
    return " \\\n  ".join(arguments)


def _notes(matrix: Matrix, question: Question, claim: Claim, cards: int) -> Iterator[str]:
    cann, hardware = question.cann, question.hardware
    yield "No evidence of a real NPU exists; what is shown, is shown on the simulator."
    if question.model.released and not claim.shown_by:
        yield "Nothing that is run here has this architecture: the claim rests on vLLM's support."
    elif question.model.released:
        yield f"No run used the weights of {_weights(question)} themselves."
    if cann.version != matrix.release.stable_cann and cann.notes:
        yield f"CANN {cann.version}: {cann.notes}"
    elif matrix.release.notes:
        yield matrix.release.notes
    if cards > hardware.cards:
        yield f"{cards} devices are {-(-cards // hardware.cards)} machines of {hardware.cards}."
    if claim.released is not None:
        size = gibibytes(claim.released, question.form.scheme if question.form else None)
        told = "of unknown size" if size is None else f"about {size:.0f} GiB"
        yield (
            f"Weights: {told}; {cards} of {hardware.cards} devices of {hardware.memory_gib} GiB."
        )
    if question.model.notes:
        yield question.model.notes
