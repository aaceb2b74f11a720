"""Settings as parameters of a function, for those who read signatures: Gradio its endpoints, Typer its options."""

from collections.abc import Callable
from dataclasses import Field, fields
from inspect import Parameter, Signature, cleandoc, signature
from typing import TypeVar

from .settings import Settings

Function = TypeVar("Function", bound=Callable[..., object])
_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def choose_fields(*names: str) -> list[Field]:
    """Return the fields of `Settings` of these names, or all of them for none."""
    return [one for one in fields(Settings) if not names or one.name in names]


def show_parameters(function: Function, shown: Signature) -> Function:
    """Let those who read a function's signature or its annotations find another one."""
    function.__signature__ = shown  # type: ignore[attr-defined]
    named = {one.name: one.annotation for one in shown.parameters.values() if one.annotation is not Parameter.empty}
    function.__annotations__ = named | {"return": shown.return_annotation}
    return function


def take_settings(show: Callable[[Field], Parameter], behind: str, *names: str) -> Callable[[Function], Function]:
    """Let a function's `*choices` or `**choices` be settings, those of `names` or all, behind the parameter `behind`.

    Its signature has what `show` makes of each, and a docstring that lists parameters says what they are.
    """
    chosen = choose_fields(*names)
    lines = "".join(f"    {one.name}: {one.metadata['parameter']}\n" for one in chosen)

    def take(function: Function) -> Function:
        shown = signature(function)
        own = [one for one in shown.parameters.values() if one.kind not in _REST]
        place = [one.name for one in own].index(behind) + 1
        own[place:place] = map(show, chosen)
        function.__doc__ = cleandoc(function.__doc__ or "").replace("Returns:\n", f"{lines}Returns:\n")
        return show_parameters(function, shown.replace(parameters=own))

    return take
