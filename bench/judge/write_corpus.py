"""Write ``corpus.jsonl``: labelled responses composed from the sentences in ``pieces/``.

Every sentence in ``pieces/`` was written for this project. A row is
``{"prompt", "response", "refusal", "style", "group"}``; rows that are built around the same
sentence share a ``group``, so that cross-validation can keep them on one side of a split.

    python bench/judge/write_corpus.py            # writes bench/judge/corpus.jsonl
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20


@dataclass(frozen=True)
class Row:
    """One labelled response."""

    prompt: str
    response: str
    refusal: bool
    style: str
    group: str


@dataclass(frozen=True)
class Prompt:
    """A request and the forms of its subject that fill ``{do}``, ``{doing}`` and ``{topic}``."""

    text: str
    do: str
    doing: str
    topic: str

    def fill(self, piece: str) -> str:
        doing = self.doing[0].upper() + self.doing[1:]
        return (
            piece.replace("{do}", self.do)
            .replace("{doing}", self.doing)
            .replace("{Doing}", doing)
            .replace("{topic}", self.topic)
        )


def read_pieces() -> dict[str, list[str]]:
    """All sections of ``pieces/*.txt``: ``[name]`` starts one, a line is a piece."""
    sections: dict[str, list[str]] = {}
    for path in sorted((HERE / "pieces").glob("*.txt")):
        current: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.fullmatch(r"\[\w+\]", line):
                current = sections.setdefault(line[1:-1], [])
            elif line and not line.startswith("# "):
                current.append(line.replace("\\n", "\n"))
    return sections


def _join(*parts: str) -> str:
    """Join sentence pieces; a piece after an open clause starts in lower case."""
    text = ""
    for part in (piece for piece in parts if piece):
        if text and not re.search(r"[.!?:\n]$", text) and not re.match(r"I\b|I'", part):
            part = part[0].lower() + part[1:]
        if not text or text[-1] in ".!?\n":
            part = part[0].upper() + part[1:]
        text = f"{text} {part}" if text else part
    return text


class Writer:
    """Composes rows with one random stream, so that the same pieces give the same corpus."""

    def __init__(self, pieces: dict[str, list[str]]) -> None:
        self.pieces = pieces
        self.random = random.Random(SEED)
        self.rows: list[Row] = []

        def prompts(kind: str) -> list[Prompt]:
            return [Prompt(*(p.strip() for p in line.split("|"))) for line in pieces[kind]]

        self.harmful = prompts("harmful")
        self.asked = self.harmful * 2 + prompts("lookalike")

    def pick(self, section: str, prompt: Prompt, chance: float = 1.0) -> str:
        if self.random.random() > chance:
            return ""
        return prompt.fill(self.random.choice(self.pieces[section]))

    def add(self, prompt: str, response: str, refusal: bool, style: str, key: str) -> None:
        group = f"{style.removesuffix(' cut')}:{key}"
        self.rows.append(Row(prompt, response, refusal, style, group))

    def cut(self, text: str, least: int) -> str:
        """The first words of a text, as a limit on new tokens leaves them."""
        words = re.findall(r"\S+\s*", text)
        if len(words) <= least + 2:
            return text
        return "".join(words[: self.random.randint(least, min(len(words) - 1, 50))]).rstrip()

    def refusal(self, style: str, key: str, text: str, prompt: Prompt, least: int) -> None:
        self.add(prompt.text, text, True, style, key)
        if self.random.random() < 0.4:
            short = self.cut(text, least)
            if short != text:
                self.add(prompt.text, short, True, f"{style} cut", key)

    def refusals(self) -> None:
        """Full and partial refusals in English."""
        for style in ("inability", "unwilling", "policy", "denial"):
            for piece in self.pieces[style]:
                for _ in range(8):
                    p = self.random.choice(self.asked)
                    start = _join(
                        self.pick("preamble", p, 0.3),
                        self.pick("turn", p, 0.2),
                        self.pick("ai", p, 0.15) or self.pick("apology", p, 0.45),
                        p.fill(piece),
                    )
                    tail = [
                        self.pick("condemn", p, 0.35),
                        self.pick("consequence", p, 0.35),
                        self.pick("consequence", p, 0.2),
                        self.pick("redirect", p, 0.35),
                        self.pick("offer", p, 0.3),
                    ]
                    least = len(start.split())
                    self.refusal(style, piece, _join(start, *tail), p, least)
        for style in ("condemn", "pointout"):
            for piece in self.pieces[style]:
                for _ in range(8):
                    p = self.random.choice(self.harmful * 4 + self.asked)
                    start = _join(self.pick("preamble", p, 0.25), p.fill(piece))
                    tail = [
                        self.pick("consequence", p, 0.8),
                        self.pick("inability", p, 0.25),
                        self.pick("consequence", p, 0.5),
                        self.pick("redirect", p, 0.8),
                        self.pick("offer", p, 0.3),
                    ]
                    self.refusal(style, piece, _join(start, *tail), p, len(start.split()) + 8)
        for piece in self.pieces["helpline"]:
            for _ in range(4):
                p = self.random.choice(
                    [
                        q
                        for q in self.harmful
                        if "self" in q.text or "my life" in q.text or "starving" in q.text
                    ]
                )
                start = _join(
                    self.pick("preamble", p, 0.3),
                    self.pick("apology", p, 0.2) and "I'm sorry that you feel this way.",
                    p.fill(piece),
                )
                tail = [self.pick("helpline", p, 0.6), self.pick("offer", p, 0.2)]
                self.refusal("helpline", piece, _join(start, *tail), p, len(start.split()))
        for piece in self.pieces["unwilling_short"]:
            for _ in range(2):
                p = self.random.choice(self.asked)
                self.add(p.text, piece, True, "short", piece)
        self.partial_refusals()

    def partial_refusals(self) -> None:
        """A part is answered, and it is said that another part is not."""
        for piece in self.pieces["partial"]:
            for _ in range(14):
                p = self.random.choice(self.asked)
                first = self.random.choice(["inability", "unwilling", "policy", "condemn"])
                start = _join(
                    self.pick("preamble", p, 0.2),
                    self.pick("apology", p, 0.3) if first != "condemn" else "",
                    self.pick(first, p),
                )
                text = _join(start, self.pick("consequence", p, 0.3), p.fill(piece))
                text += "\n\n" + self.pick("partial_list", p)
                if self.random.random() < 0.4:
                    text += "\n\n" + self.pick("redirect", p)
                self.refusal("partial", piece, text, p, len(start.split()))

    def answers(self) -> None:
        """Answers, also those that look like refusals."""
        for section in ("answers", "no_premise_answers", "definitions", "plain_denial_answers"):
            for line in self.pieces[section]:
                prompt, answer = line.split(" => ", 1)
                self.add(prompt, answer, False, section, prompt)
                for _ in range(2):
                    self.add(prompt, self.cut(answer, 5), False, f"{section} cut", prompt)
                if self.random.random() < 0.5:
                    opening = self.random.choice(self.pieces["openings"])
                    self.add(prompt, _join(opening, answer), False, section, prompt)
                if self.random.random() < 0.5:
                    opening = self.random.choice(["", *self.pieces["openings"]])
                    text = _join(opening, self.random.choice(self.pieces["cautions"]), answer)
                    if self.random.random() < 0.3:
                        text += f"\n\n{self.random.choice(self.pieces['consequence'])}"
                    self.add(prompt, text, False, f"{section} with caution", prompt)
                if self.random.random() < 0.5:
                    closing = self.random.choice(self.pieces["closings"])
                    self.add(prompt, f"{answer}\n\n{closing}", False, section, prompt)
        general = [line.split("|")[0].strip() for line in self.pieces["general"]]
        for line in self.pieces["general_answers"]:
            for _ in range(2):
                text = line if self.random.random() < 0.6 else self.cut(line, 5)
                self.add(self.random.choice(general), text, False, "general", line)
        for line in self.pieces["harmful_answers"]:
            for _ in range(8):
                p = self.random.choice(self.harmful)
                text = _join(self.pick("openings", p, 0.25), p.fill(line))
                self.add(p.text, text, False, "harmful answer", line)
                if self.random.random() < 0.3:
                    self.add(p.text, self.cut(text, 12), False, "harmful answer cut", line)

    def premises(self) -> None:
        """Questions with a hostile premise (denying it refuses) or an impossible one (it answers).

        Also definitions of crimes, where strong words are no refusal.
        """

        def fields(line: str, *names: str) -> dict[str, str]:
            return dict(zip(names, (part.strip() for part in line.split("|")), strict=True))

        def fill(piece: str, slots: dict[str, str]) -> str:
            for name, value in slots.items():
                piece = piece.replace("{" + name + "}", value)
                capital = value[0].upper() + value[1:]
                piece = piece.replace("{" + name.capitalize() + "}", capital)
            return piece

        both = (
            ("hostile", "premise_refusal", "people_facts", ("prompt", "who", "act", "state"), True),
            (
                "hostile_history",
                "premise_history_refusal",
                "history_facts",
                ("prompt", "event"),
                True,
            ),
            (
                "nonsense",
                "nonsense_answer",
                "nonsense_facts",
                ("prompt", "who", "act", "why"),
                False,
            ),
        )
        for questions, replies, facts, names, refusal in both:
            for piece in self.pieces[replies]:
                for line in self.random.sample(self.pieces[questions], 8):
                    slots = fields(line, *names)
                    prompt = Prompt(slots["prompt"], "do this", "doing this", "this")
                    start = fill(piece, slots)
                    more = self.pick(facts, prompt, 0.5)
                    more = _join(more, self.pick(facts, prompt, 0.3))
                    tail = self.pick("consequence" if refusal else "closings", prompt, 0.4)
                    if refusal or self.random.random() < 0.3:
                        tail = _join(tail, self.pick("consequence", prompt, 0.3))
                        tail = _join(tail, self.pick("redirect", prompt, 0.15))
                    self.add(prompt.text, _join(start, more, tail), refusal, replies, piece)
                    if self.random.random() < 0.3:
                        self.add(prompt.text, self.cut(start, 9), refusal, f"{replies} cut", piece)
        for piece in self.pieces["fictional_answer"]:
            for prompt_text in self.pieces["fictional_private"]:
                asked = Prompt(prompt_text, "ask", "asking", "this")
                text = _join(self.pick("apology", asked, 0.2), piece)
                text = _join(text, self.pick("consequence", asked, 0.3))
                self.add(prompt_text, text, False, "fictional", piece)
        topics = sorted({p.topic for p in self.harmful})
        for piece in self.pieces["definition_templates"]:
            for topic in self.random.sample(topics, 10):
                question = self.random.choice(["What is {}?", "Define {}", "What does {} mean?"])
                asked = Prompt(question.format(topic), topic, topic, topic)
                text = _join(self.pick("openings", asked, 0.2), asked.fill(piece))
                self.add(asked.text, text, False, "definition", piece)
                if self.random.random() < 0.3:
                    self.add(asked.text, self.cut(text, 7), False, "definition cut", piece)
        violent = [
            p for p in self.harmful if re.search("poison|beat|torture|revenge|bully|threat", p.text)
        ]
        for piece in self.pieces["peace_refusal"]:
            for p in self.random.sample(violent, 4):
                text = _join(piece, self.pick("consequence", p, 0.4), self.pick("redirect", p, 0.3))
                self.refusal("peace", piece, text, p, len(piece.split()))
        private = [p for p in self.harmful if p.topic == "private information"]
        for piece in self.pieces["private_refusal"]:
            for p in private * 2:
                text = _join(self.pick("apology", p, 0.5), p.fill(piece))
                self.refusal("private", piece, _join(text, self.pick("offer", p, 0.4)), p, 12)

    def languages(self) -> None:
        for language in ("es", "fr", "de", "zh"):
            for kind, refusal in (("refusal", True), ("answer", False)):
                for line in self.pieces[f"{language}_{kind}"]:
                    for _ in range(2):
                        p = self.random.choice(self.asked)
                        self.add(p.text, line, refusal, f"{language} {kind}", line)

    def garbage(self) -> None:
        for line in self.pieces["garbage"]:
            for _ in range(2):
                p = self.random.choice(self.asked)
                self.add(p.text, line, False, "garbage", line)
        for p in self.random.sample(self.asked, 30):
            self.add(p.text, p.text, False, "echo", p.text)
            self.add(p.text, f"{p.text} {p.text} {p.text}", False, "echo", p.text)
        for text in ("", " ", "\n"):
            self.add(self.asked[0].text, text, False, "empty", text)


def write_corpus() -> list[Row]:
    """All rows, in a fixed order, without exact repetitions."""
    writer = Writer(read_pieces())
    writer.refusals()
    writer.answers()
    writer.premises()
    writer.languages()
    writer.garbage()
    return list({(row.prompt, row.response): row for row in writer.rows}.values())


def main() -> None:
    rows = write_corpus()
    with (HERE / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    print(f"{len(rows)} rows, {sum(row.refusal for row in rows)} of them refusals")


if __name__ == "__main__":
    main()
