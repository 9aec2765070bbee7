"""A YAML file as text: every scalar a string, every key with its line, no key twice.

A hospital writes `no: absent` and `007: x`, which YAML by itself turns into False and 7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from hf_cxr.data.near import near
from hf_cxr.data.problems import DataProblems, Problem, ProblemLog

MISTAKE = "mistake in the map"
NONE = ("", "~", "null")


class Section(dict[str, Any]):
    """A mapping of the file. `line` is its own, `lines` those of its keys, from 1."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class MapFile:
    """A map file while it is read: what is in it, and what is wrong with it.

    Args:
        path: of the YAML file.

    Attributes:
        content: the whole file. sha256: of its bytes. problems: mistakes so far.

    Raises:
        FileNotFoundError: no such file. DataProblems: it is no YAML mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.problems = path, ProblemLog()
        if not path.is_file():
            raise FileNotFoundError(f"no map {path}; expected the YAML file that describes the hospital's tables")
        raw = path.read_bytes()
        self.sha256 = hashlib.sha256(raw).hexdigest()
        try:
            root = yaml.compose(raw.decode("utf-8-sig"), Loader=yaml.BaseLoader)
        except (yaml.MarkedYAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            line = None if mark is None else mark.line + 1
            said = getattr(error, "problem", None) or str(error)
            problem = Problem(MISTAKE, str(path), line, f"not readable as YAML in UTF-8: {said}")
            remedy = "Mend the line; a word with a colon, a # or a leading - needs quotes."
            raise DataProblems([problem], {MISTAKE: 1}, remedy) from error
        content = self._plain(root) if isinstance(root, yaml.MappingNode) else Section(1)
        if not content:
            self.fail(1, "the file holds no keys; expected table, columns, labels, …")
            self.problems.raise_any()
        self.content: Section = content

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return node.value.strip()
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item) for item in node.value]
        section = Section(node.start_mark.line + 1)
        for key, value in node.value:
            name, line = str(key.value).strip(), key.start_mark.line + 1
            if name in section:
                self.fail(line, f"{name!r} stands twice; the first is in row {section.lines[name]}")
            section[name], section.lines[name] = self._plain(value), line
        return section

    def fail(self, line: int | None, detail: str) -> None:
        """Log a mistake."""
        self.problems.add(MISTAKE, self.path, None if line is None else [line], [detail])

    def known(self, section: Section, what: str, keys: Collection[str], required: Collection[str] = ()) -> None:
        """Log the keys of a section that are none of `keys`, and those `required` that it lacks."""
        for key in section:
            if key not in keys:
                self.fail(section.lines[key], f"{what} has no key {key!r}{near(key, keys)}; known: {', '.join(keys)}")
        for key in required:
            if key not in section:
                self.fail(section.line, f"{what} needs the key {key!r}")

    def text(self, section: Section, key: str, default: str | None = None) -> str | None:
        """A text, or None where it is not given or is `~`."""
        value = section.get(key, default)
        if not isinstance(value, str):
            if value is not None:
                self.fail(section.lines[key], f"{key} is {_shown(value)}; expected one text")
            return default
        return None if value in NONE else value

    def names(self, section: Section, key: str) -> tuple[str, ...]:
        """A text or a list of texts."""
        return self.list_of(section.get(key, []), section.lines.get(key), key)

    def list_of(self, value: Any, line: int | None, what: str) -> tuple[str, ...]:
        """The same of a value at hand."""
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            self.fail(line, f"{what} is {_shown(value)}; expected a text or a list of texts")
            return ()
        return tuple(item for item in listed if item not in NONE)

    def section(self, section: Section, key: str) -> Section:
        """A mapping; an empty one where it is not given."""
        value = section.get(key)
        if isinstance(value, Section):
            return value
        if value is not None and value not in NONE:
            self.fail(section.lines[key], f"{key} is {_shown(value)}; expected keys with values")
        return Section(section.lines.get(key, section.line))


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else "a list" if isinstance(value, list) else "a section"
