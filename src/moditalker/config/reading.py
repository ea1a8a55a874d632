"""Reads and writes configurations: defaults <- preset <- file <- overrides, strictly."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, Literal

import yaml

from moditalker.config.schema import Config, RulesConfig, check
from moditalker.errors import UserError

GONE = {"atom.gain", "atom.sharpen"}  # settings of earlier versions that weights may still name
FOLDER = resources.files("moditalker.config") / "presets"
PRESETS = tuple(sorted(file.name.removesuffix(".yaml") for file in FOLDER.iterdir()))


def load(preset: str | None = None, file: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Resolve a configuration: defaults <- preset <- file <- overrides.

    Args:
        preset: one of `PRESETS`; None: the preset named in the file, else "paper".
        file: a YAML file with any of the keys.
        overrides: "section.key=value" each; values are YAML.

    Raises:
        UserError: unknown key or preset, wrong type, value out of range, unreadable file.
    """
    tree = _read_yaml(Path(file)) if file is not None else {}
    name = preset or tree.get("preset", "paper")
    if name not in PRESETS:
        raise UserError(f"preset {name!r} does not exist; there are {', '.join(PRESETS)}")
    return override(_merge(_preset(name), tree | {"preset": name}), overrides)


def _preset(name: str) -> Config:
    """Read a preset that ships. Its file may name, under `like`, another one that it starts from."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(text) or {}
    like = tree.pop("like", None)
    config: Config = _merge(Config() if like is None else _preset(like), tree)
    return config


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Apply "section.key=value" strings to `config`; values are read as YAML.

    Raises:
        UserError: as `load`, and for a string without "=".
    """
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment}: section.key=value is expected, as in --set atom.width=256")
        if key.strip() == "preset":
            raise UserError(f"--set {assignment}: --preset names the preset; set what differs")
        try:
            tree: Any = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"--set {short(assignment)}: the value is not YAML") from error
        for part in reversed(key.strip().split(".")):
            tree = {part: tree}
        config = _merge(config, tree)
    return check(config)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Read a configuration that `to_dict` wrote; missing keys take the defaults.

    Keys in `GONE` are skipped. If it has no rules, its version applied all of them.

    Raises:
        UserError: as `load`.
    """
    kept = {
        name: {key: value for key, value in section.items() if f"{name}.{key}" not in GONE}
        if isinstance(section, Mapping)
        else section
        for name, section in tree.items()
    }
    if "rules" not in kept:  # weights of version 0.1, which applied all of them
        kept["rules"] = dict.fromkeys((item.name for item in dataclasses.fields(RulesConfig)), True)
    return check(_merge(Config(), kept))


def to_dict(config: Config) -> dict[str, Any]:
    """Convert to nested plain values, for JSON and YAML."""
    tree: dict[str, Any] = _plain(dataclasses.asdict(config))
    return tree


def dump(config: Config) -> str:
    """Write the whole configuration as YAML that `load` reads back to an equal one."""
    text: str = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    return text


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its name") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is not YAML; write settings as `moditalker config` shows them") from error
    if not isinstance(tree, dict | None):
        raise UserError(f"{path}: keys and values are expected, not {type(tree).__name__}")
    return tree or {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _merge(node: Any, tree: Any, path: str = "") -> Any:
    """Put the values of the nested mapping `tree` into the dataclass `node`; check each against its type."""
    if not isinstance(tree, Mapping):
        raise UserError(
            f"configuration: {path} = {short(tree)}: keys are expected, such as {_known(node, path)[0]}"
        )
    hints = typing.get_type_hints(type(node), include_extras=True)
    changes = {}
    for name, value in tree.items():
        key = f"{path}.{name}".lstrip(".")
        if name not in hints:
            raise UserError(f"configuration: {key} = {short(value)}: unknown key{_nearest(key)}")
        current = getattr(node, name)
        if dataclasses.is_dataclass(current):
            changes[name] = _merge(current, value, key)
        else:
            changes[name] = _value(hints[name], value, key)
    return dataclasses.replace(node, **changes)


def _value(hint: Any, value: Any, key: str) -> Any:
    """Check `value` against the type `hint` (int, float, bool, str, Literal, Annotated, tuple of these)."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        kind, rule = typing.get_args(hint)
        value = _value(kind, value, key)
        if not rule.low <= value <= rule.high:
            raise UserError(f"configuration: {key} = {value}: must be {rule}")
        return value
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UserError(
                f"configuration: {key} = {short(value)}: must be {' or '.join(map(repr, choices))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"configuration: {key} = {short(value)}: a list is expected, as in [1, 2]")
        return tuple(_value(typing.get_args(hint)[0], item, key) for item in value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-4 as text
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise UserError(f"configuration: {key} = {short(value)}: {names[hint]} is expected")
    return value


def _known(node: Any, path: str = "") -> list[str]:
    keys = []
    for item in dataclasses.fields(node):
        key, value = f"{path}.{item.name}".lstrip("."), getattr(node, item.name)
        keys += _known(value, key) if dataclasses.is_dataclass(value) else [key]
    return keys


def _nearest(key: str) -> str:
    known = _known(Config())
    # A right name in the wrong section is more likely than a similar name elsewhere.
    close = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"; the nearest known key is {close[0]}"
