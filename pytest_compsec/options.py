"""Command line and ini values, merged into one frozen Settings: command line, ini, default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.reports.kinds import CERTIFICATE, kind_of, suffixes

INCONCLUSIVE_CHOICES = ("fail", "xfail", "warn")
STAGING_CHOICES = ("link", "copy")
#: As many prompts as fit under a failed check without burying the others.
REPORT_LINES = 5
FLAGS = {
    "full": "ask every prompt, even when the verdict is settled before",
    "noise_floor": "let the original answer twice, in other batches, and withhold REGRESSED where "
    "that differs as much",
    "runtime_agreement": "where a model runs in llama.cpp, say how often the same file unpacked by "
    "transformers answers alike (loads it a second time)",
    "familywise": "correct PRESERVED for testing several variants (Holm), for whoever ships any "
    "one that passes",
    "memory": "report the peak memory of each arm: what its weights take, what came on top, and "
    "whether another arm was in memory at the same time",
    "one_model": "never keep two models in memory, also where they fit: the least memory, at the "
    "price of loading an arm again",
    "show_answers": "put prompts' answers into Markdown and SARIF reports, the page of a CI job "
    "and JUnit, which many people read; HTML and JSON reports have them anyway",
    "junit_properties": "put the verdict and its numbers on each test with checks in the file of "
    "--junit-xml, as properties compsec.<check>.<name>",
    "sign_sigstore": "sign certificates as the job that a CI system vouches for, through Sigstore: "
    "no key of one's own, and an entry in a public log",
    "drafts": "let the compressed model check the original's answers as drafts of its own: the "
    "same answers up to ties; slower on the processors where it was measured, so off without this",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user asked of this run. ``origins`` says where each value came from."""

    config: Path | None
    lock_digest: str | None
    use_cache: bool
    reports: tuple[Path, ...]
    inconclusive: Literal["fail", "xfail", "warn"]
    staging: Literal["link", "copy"]
    full: bool
    noise_floor: bool
    runtime_agreement: bool
    familywise: bool
    memory: bool
    one_model: bool
    drafts: bool
    expected_discordance: float
    export_labels: Path | None
    origins: dict[str, str]
    #: The file to append the run to; "beside": compsec-history.jsonl beside compsec.yaml.
    history: Path | Literal["beside"] | None = None
    #: Answers of models may appear in Markdown, JUnit and the page of a CI job.
    show_answers: bool = False
    sign_key: Path | None = None
    sign_sigstore: bool = False
    #: Prompts that changed for the worse, shown below a failed check.
    report_lines: int = REPORT_LINES
    #: Scalars of each verdict among the properties of JUnit.
    junit_properties: bool = False


def add_options(parser: pytest.Parser) -> None:
    """Register ``--compsec-*`` and their ini twins."""
    group = parser.getgroup("compsec", "pytest-compsec: is the compressed model still as safe?")
    group.addoption(
        "--compsec-config",
        metavar="FILE",
        help="compsec.yaml to use (default: the nearest one above each test file)",
    )
    group.addoption(
        "--compsec-lock-digest",
        metavar="HEX",
        help="sha256 that compsec.lock itself must have; any other lock ends the run",
    )
    group.addoption(
        "--compsec-no-cache",
        action="store_true",
        default=None,
        help="neither read nor write cached answers",
    )
    group.addoption(
        "--compsec-report",
        metavar="FILE",
        action="append",
        help=f"write a report; its kind is in the name: {suffixes()} (repeatable)",
    )
    group.addoption(
        "--compsec-staging",
        choices=STAGING_CHOICES,
        help="load large files through a link to the verified file (link), or from a private copy "
        "(copy: needs the disk space)",
    )
    for name, meaning in FLAGS.items():
        group.addoption(
            f"--compsec-{name.replace('_', '-')}", action="store_true", default=None, help=meaning
        )
        parser.addini(f"compsec_{name}", meaning, type="bool", default=False)
    group.addoption(
        "--compsec-sign-key",
        metavar="KEY.pem",
        help="sign certificates (--compsec-report=FILE.intoto.json) with this private key; its "
        "password, where it has one, is read from COMPSEC_SIGN_PASSWORD",
    )
    group.addoption(
        "--compsec-report-lines",
        metavar="N",
        type=int,
        help="prompts that changed for the worse to show below each failed check "
        f"(default: {REPORT_LINES}; 0: none)",
    )
    parser.addini("compsec_sign_key", "private key that signs certificates", default="")
    parser.addini("compsec_report_lines", "prompts to show below a failed check", default="")
    group.addoption(
        "--compsec-export-labels",
        metavar="FILE.csv",
        help="write a blind, shuffled sheet of answers for people to label (see compsec calibrate)",
    )
    group.addoption(
        "--compsec-history",
        metavar="FILE.jsonl",
        nargs="?",
        const="beside",
        help="append this run's outcomes to FILE.jsonl (default: compsec-history.jsonl beside "
        "compsec.yaml), for no_drift and `compsec accept`",
    )
    parser.addini("compsec_history", "true, or the .jsonl file to append runs to", default="")
    parser.addini(
        "compsec_expected_discordance",
        "share of prompts on which a good compressed model differs, for the power told at "
        "collection",
        default="0.03",
    )
    parser.addini("compsec_config", "compsec.yaml to use", default="")
    parser.addini("compsec_lock_digest", "sha256 that compsec.lock must have", default="")
    parser.addini("compsec_cache", "use cached answers", type="bool", default=True)
    parser.addini("compsec_report", "report files to write", type="args", default=[])
    parser.addini(
        "compsec_inconclusive", "what an INCONCLUSIVE verdict does: fail, xfail or warn", default=""
    )
    parser.addini("compsec_staging", "link or copy", default="")


def read_settings(config: pytest.Config) -> Settings:
    """Merge command line and ini. Raises pytest.UsageError naming the option."""
    origins: dict[str, str] = {}

    def choose(name: str, option: Any, ini: Any, default: Any) -> Any:
        if option is not None and option != []:
            origins[name] = "command line"
            return option
        if ini not in ("", [], None):
            origins[name] = "ini"
            return ini
        origins[name] = "default"
        return default

    base = config.inipath.parent if config.inipath is not None else config.rootpath
    path = choose(
        "config", config.getoption("compsec_config"), config.getini("compsec_config"), None
    )
    digest = choose(
        "lock_digest",
        config.getoption("compsec_lock_digest"),
        config.getini("compsec_lock_digest"),
        None,
    )
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise pytest.UsageError(
            f"compsec lock digest {digest!r} is not a sha256 (64 hexadecimal digits); "
            "`compsec verify` prints the digest of the lock"
        )
    inconclusive = choose("inconclusive", None, config.getini("compsec_inconclusive"), "fail")
    staging = choose(
        "staging", config.getoption("compsec_staging"), config.getini("compsec_staging"), "link"
    )
    for name, value, choices in (
        ("compsec_inconclusive", inconclusive, INCONCLUSIVE_CHOICES),
        ("compsec_staging", staging, STAGING_CHOICES),
    ):
        if value not in choices:
            raise pytest.UsageError(f"ini {name} = {value}: choose one of {', '.join(choices)}")
    reports = choose(
        "reports", config.getoption("compsec_report"), config.getini("compsec_report"), []
    )
    for report in reports:
        kind = kind_of(Path(report))
        if kind is None:
            raise pytest.UsageError(
                f"--compsec-report={report}: a report must end in one of {suffixes()}"
            )
        missing = kind.missing()
        if missing is not None:
            raise pytest.UsageError(f"--compsec-report={report}: {missing}")
    flags = {}
    for name in FLAGS:
        given = config.getoption(f"compsec_{name}")
        flags[name] = bool(given) if given is not None else bool(config.getini(f"compsec_{name}"))
        origins[name] = "command line" if given is not None else "ini or default"
    labels = config.getoption("compsec_export_labels")
    if labels is not None and Path(labels).suffix != ".csv":
        raise pytest.UsageError(f"--compsec-export-labels={labels}: the file must end in .csv")
    no_cache = bool(config.getoption("compsec_no_cache"))
    origins["use_cache"] = "command line" if no_cache else "ini"
    invocation = config.invocation_params.dir
    from_line = origins["config"] == "command line"
    report_base = invocation if origins["reports"] == "command line" else base
    return Settings(
        config=((invocation if from_line else base) / path).resolve() if path else None,
        lock_digest=digest.lower() if digest else None,
        use_cache=not no_cache and bool(config.getini("compsec_cache")),
        reports=tuple(dict.fromkeys(report_base / report for report in reports)),
        inconclusive=inconclusive,
        staging=staging,
        full=flags["full"],
        noise_floor=flags["noise_floor"],
        runtime_agreement=flags["runtime_agreement"],
        familywise=flags["familywise"],
        memory=flags["memory"],
        one_model=flags["one_model"],
        drafts=flags["drafts"],
        expected_discordance=_discordance(config),
        export_labels=invocation / labels if labels is not None else None,
        origins=origins,
        history=_history(config, base, origins),
        show_answers=flags["show_answers"],
        sign_key=_sign_key(
            config,
            base,
            origins,
            sigstore=flags["sign_sigstore"],
            certificates=any(str(report).endswith(CERTIFICATE) for report in reports),
        ),
        sign_sigstore=flags["sign_sigstore"],
        report_lines=_report_lines(config, origins),
        junit_properties=flags["junit_properties"],
    )


def _history(
    config: pytest.Config, base: Path, origins: dict[str, str]
) -> Path | Literal["beside"] | None:
    given, ini = config.getoption("compsec_history"), config.getini("compsec_history").strip()
    origins["history"] = "command line" if given is not None else "ini" if ini else "default"
    if given == "":
        raise pytest.UsageError(
            "--compsec-history= names no file: write --compsec-history=FILE.jsonl, or the option "
            "alone behind the tests' paths"
        )
    wanted = given if given is not None else {"true": "beside", "false": ""}.get(ini.lower(), ini)
    if not wanted:
        return None
    if wanted == "beside":
        return "beside"
    if Path(wanted).suffix != ".jsonl":
        raise pytest.UsageError(
            f"--compsec-history={wanted}: the file must end in .jsonl. Write "
            "--compsec-history=FILE, or the option without a file behind the tests' paths"
        )
    folder = config.invocation_params.dir if given is not None else base
    found: Path = folder / str(wanted)
    return found


def _sign_key(
    config: pytest.Config,
    base: Path,
    origins: dict[str, str],
    *,
    sigstore: bool,
    certificates: bool,
) -> Path | None:
    """The key that signs, tried before anything runs; whoever does not sign needs no library, and
    whose ini names a key needs none for a run without a certificate."""
    given, ini = config.getoption("compsec_sign_key"), config.getini("compsec_sign_key")
    origins["sign_key"] = "command line" if given else "ini" if ini else "default"
    key: Path | None = None
    if given or ini:
        key = config.invocation_params.dir / given if given else base / ini
    if given and not certificates:
        raise pytest.UsageError(
            f"--compsec-sign-key={given}: there is nothing to sign. Ask for a certificate: "
            f"--compsec-report=NAME{CERTIFICATE}"
        )
    if config.getoption("compsec_sign_sigstore") and not certificates:
        raise pytest.UsageError(
            "--compsec-sign-sigstore: there is nothing to sign. Ask for a certificate: "
            f"--compsec-report=NAME{CERTIFICATE}"
        )
    if key is not None and sigstore and certificates:
        raise pytest.UsageError(
            "--compsec-sign-key and --compsec-sign-sigstore: a certificate has one signature, "
            "choose one of them"
        )
    # Of pytest-xdist the controller signs, and has tried.
    if hasattr(config, "workerinput") or not certificates:
        return key
    try:
        if key is not None:
            from pytest_compsec.signing import keys

            keys.load_private_key(key, keys.password_from_environment())
        if sigstore:
            from pytest_compsec.signing import keyless

            keyless.require_identity()
    except CompsecError as error:
        option = "--compsec-sign-sigstore" if key is None else f"--compsec-sign-key={given or ini}"
        raise pytest.UsageError(f"{option}: {error}") from None
    return key


def _report_lines(config: pytest.Config, origins: dict[str, str]) -> int:
    given, ini = config.getoption("compsec_report_lines"), config.getini("compsec_report_lines")
    origins["report_lines"] = "command line" if given is not None else "ini" if ini else "default"
    text = str(given if given is not None else ini or REPORT_LINES)
    if not (text.isascii() and text.isdigit()):
        raise pytest.UsageError(f"--compsec-report-lines={text}: a number of prompts, 0 or more")
    return int(text)


def _discordance(config: pytest.Config) -> float:
    text = config.getini("compsec_expected_discordance")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise pytest.UsageError(
            f"ini compsec_expected_discordance = {text}: a share of prompts such as 0.03"
        )
    return value
