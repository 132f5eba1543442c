"""The public API describes every argument, result and error of its own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from worker import enqueue, errors
from worker.admin import Admin

PUBLIC: list[Callable[..., Any]] = [
    enqueue,
    *(
        function
        for name, function in inspect.getmembers(Admin, inspect.isfunction)
        if name[0] != "_"
    ),
]
ERRORS = {
    name: error
    for name, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, errors.EvalWorkerError)
}


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_every_argument_and_result_is_described(function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    _, _, described = text.partition("Args:\n")
    assert parameters == re.findall(r"^    (\w+): \S", described.partition("\n\n")[0], re.MULTILINE)
    result = inspect.signature(function).return_annotation
    if result not in ("None", "bool"):
        assert re.search(r"^(Returns|Yields):$", text, re.MULTILINE)


def test_every_error_is_in_the_tree_of_its_module() -> None:
    assert errors.__doc__ is not None
    assert set(re.findall(r"^    (?:│   )?(?:[├└]── )?(\w+)", errors.__doc__, re.MULTILINE)) == set(
        ERRORS
    )


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_only_errors_that_exist_are_described(function: Callable[..., Any]) -> None:
    _, _, raised = (inspect.getdoc(function) or "").partition("Raises:\n")
    for name in re.findall(r"^    ([\w.]+): \S", raised, re.MULTILINE):
        assert name in ERRORS or name == "sqlalchemy.exc.SQLAlchemyError"
