"""The zoo: one file per method; the file's name is the method's name and its registration."""

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from segcore.backbones import Backbone
from segcore.errors import InputError, suggestion
from segcore.segmenter import Segmenter

__all__ = ["build_model", "list_methods", "list_options", "method"]


def list_methods() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def method(name: str) -> type[Segmenter]:
    """The class that ``models/<name>.py`` exports. Raises InputError on an unknown name."""
    return _class_of(name)


def list_options(method: str) -> dict[str, Any]:
    """The options of a method with their defaults, ``auxiliary`` included where it has one."""
    parameters = inspect.signature(_class_of(method)).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def build_model(
    method: str, backbone: Backbone, num_classes: int, *, auxiliary: bool = True, **options: Any
) -> Segmenter:
    """A method on a backbone for ``num_classes`` classes.

    ``auxiliary=False`` leaves out the heads on earlier features that only training needs; a
    method without such heads takes no notice. Raises InputError on an unknown method or option
    and on a backbone that lacks a feature which the method needs.
    """
    segmenter = _class_of(method)
    known = list_options(method)
    for option in options:
        if option not in known:
            raise InputError(f"method {method} has no option {option!r}{suggestion(option, known)}")
    if num_classes < 1:
        raise InputError(f"a model needs at least one class, not {num_classes}")
    supervised = auxiliary and "auxiliary" in known
    _check_features(method, segmenter, backbone, supervised)
    if "auxiliary" in known:
        options["auxiliary"] = auxiliary
    try:
        return segmenter(backbone, num_classes, **options)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        # What torch says of an impossible option, such as a negative width.
        raise InputError(f"method {method} with {options}: {error}") from error


def _class_of(name: str) -> type[Segmenter]:
    if name not in list_methods():
        raise InputError(f"no method {name!r}{suggestion(name, list_methods())}")
    module = import_module(f"{__name__}.{name}")
    (class_name,) = module.__all__
    return getattr(module, class_name)


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
