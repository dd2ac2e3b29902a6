"""The zoo: one file per method; the file's name is the method's name and its registration."""

import inspect
from collections.abc import Callable
from fnmatch import fnmatch
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from segcore.backbones import Backbone
from segcore.errors import InputError, suggestion
from segcore.segmenter import Segmenter

__all__ = ["build_model", "list_methods", "list_options", "method_class"]


def list_methods() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def method_class(name: str) -> type[Segmenter]:
    """The class that ``models/<name>.py`` exports. Raises InputError on an unknown name."""
    if name not in list_methods():
        raise InputError(f"no method {name!r}{suggestion(name, list_methods())}")
    module = import_module(f"{__name__}.{name}")
    (class_name,) = module.__all__
    return getattr(module, class_name)


def list_options(method: str) -> dict[str, Any]:
    """The options of a method with their defaults, ``auxiliary`` included where it has one."""
    parameters = inspect.signature(method_class(method)).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def build_model(
    method: str, backbone: Backbone, num_classes: int, *, auxiliary: bool = True, **options: Any
) -> Segmenter:
    """A method on a backbone for ``num_classes`` classes.

    ``auxiliary=False`` leaves out the heads on earlier features that only training needs; a
    method without such heads takes no notice. Raises InputError on an unknown method or option,
    on a value that no option of that name can have, and on a backbone that lacks a feature which
    the method needs.
    """
    segmenter: Any = method_class(method)
    known = list_options(method)
    for option, value in options.items():
        if option not in known:
            raise InputError(f"method {method} has no option {option!r}{suggestion(option, known)}")
        _check_value(method, option, value, known[option])
    if num_classes < 1:
        raise InputError(f"a model needs at least one class, not {num_classes}")
    supervised = auxiliary and "auxiliary" in known
    _check_features(method, segmenter, backbone, supervised)
    if "auxiliary" in known:
        options["auxiliary"] = auxiliary
    return segmenter(backbone, num_classes, **options)


def _whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(value: Any, of: Callable[[Any], bool] = _whole) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(of, value))


def _pair(value: Any) -> bool:
    return _listed(value) and len(value) == 2


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "*widths grids dilations": (_listed, "a list of whole numbers of at least 1, as in [1, 2]"),
    "cells": (lambda value: _listed(value, _pair), "a list of heights and widths, as in [[8, 8]]"),
    "*width dilation num_codes recurrence stacks": (_whole, "a whole number of at least 1"),
    "num_convs pools output_units bottom_layers": (
        lambda value: _whole(value, least=0),
        "a whole number of at least 0",
    ),
    "*kernel": (lambda value: _whole(value) and value % 2 == 1, "an odd whole number"),
    "dropout": (lambda value: _number(value) and 0 <= value < 1, "a share from 0 to below 1"),
    "deconvolution": (lambda value: value in (2, 4), "2 or 4"),
    "ratio": (lambda value: _number(value) and value > 0, "a number above 0"),
}
"""What holds of the values of options that go by a name, and how it is said; what one method alone
asks of its options that method says."""


def _check_value(method: str, option: str, value: Any, default: Any) -> None:
    checks = [
        check for names, check in _VALUES.items() if any(fnmatch(option, n) for n in names.split())
    ]
    if isinstance(default, bool):
        checks.append((lambda value: isinstance(value, bool), "true or false"))
    for holds, what in checks:
        if not holds(value):
            raise InputError(f"method {method}: {option} must be {what}, not {value!r}")


def _check_features(
    method: str, segmenter: type[Segmenter], backbone: Backbone, supervised: bool
) -> None:
    has = f"the backbone's features have strides {', '.join(map(str, backbone.strides))}"
    if lacking := [each for each in segmenter.needed_strides if each not in backbone.strides]:
        raise InputError(
            f"method {method} needs features at strides "
            f"{', '.join(map(str, segmenter.needed_strides))}; {has}, so {lacking[0]} is missing; "
            "leave output_stride out or choose another backbone"
        )
    if len(backbone.strides) < segmenter.needed_features:
        raise InputError(f"method {method} reads {segmenter.needed_features} features; {has}")
    if supervised and len(backbone.strides) < 2:
        raise InputError(
            f"method {method} supervises the last feature but one; {has}; set auxiliary to false"
        )
