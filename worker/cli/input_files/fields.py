"""Know the fields of an input, and the names that other tools and languages give to them."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from worker.wire.inputs import Input

FIELDS = frozenset((*Input.model_fields, "metadata"))
TEXT_LISTS = ("contexts", "file_ids")
JSON_FIELDS = (*TEXT_LISTS, "functions", "turns", "tools", "metadata")
"""Fields that hold a list or an object; in cells, it is written as JSON."""

TEXTS = FIELDS - set(JSON_FIELDS)

_LONGEST_NAME = 200  # characters; a file without a header has texts in place of names
_NEAR = 0.81  # ratio of difflib: `respnse` has 0.93, `content` for `contexts` has 0.8

# Ordered: an earlier name is taken before a later one. Compared without case and punctuation.
_REQUEST = """
    question prompt query user_input instruction problem user_query user_message input user human
    question_text input_text user_prompt user_question message utterance inputs req q
    frage pregunta domanda pergunta vraag вопрос питання 问题 問題 質問 질문 pytanie soru fråga
    kysymys spørgsmål spørsmål otázka kérdés întrebare pertanyaan câu_hỏi سؤال प्रश्न ερώτηση שאלה
"""
_RESPONSE = """
    answer output completion prediction model_output model_response model_answer actual_output
    generated_answer generated_text generation predicted_answer assistant_response last_assistant
    generated_response bot_response agent_response llm_answer assistant llm_output llm_response
    candidate pred reply outputs resp response_text filtered_resps resps a
    antwort respuesta réponse risposta resposta antwoord ответ відповідь 回答 答案 答え 답변 대답
    odpowiedź cevap svar vastaus odpověď válasz răspuns jawaban câu_trả_lời trả_lời
    إجابة उत्तर απάντηση תשובה
"""
_EXPECTED_OUTPUT = """
    ground_truth reference expected expected_answer expected_response reference_answer
    reference_output gold gold_answer golden_answer correct_answer best_answer ideal
    ideal_answer ideal_response target canonical_solution solution gt answer_key
    expected_result desired_output desired_response correct_response gold_response golden_response
    reference_response ground_truth_answer
    referenz referenzantwort musterlösung musterantwort erwartete_antwort respuesta_esperada
    respuesta_correcta réponse_attendue risposta_attesa resposta_esperada 参考答案 標準答案 正解
"""
_CONTEXTS = """
    retrieved_contexts retrieval_context retrieved_context context reference_contexts documents
    docs passages passage chunks retrieved_documents source_documents evidence ctx ctxs
    kontext kontexte contexto contextos contexte contesto контекст 上下文 文脈
"""
_ALIASES = {
    "request": _REQUEST.split(),
    "response": _RESPONSE.split(),
    "expected_output": _EXPECTED_OUTPUT.split(),
    "contexts": _CONTEXTS.split(),
    "turns": ["messages", "conversation", "conversations", "chat"],
    "system_prompt": ["system", "system_message"],
}


_WITH_TEXT = ("request", "response", "expected_output")
_TEXT_NAMES = {"content", "text", "raw", "value", "message", "choices"}
"""Members that are the text of their object, or hold it, whatever it is."""

_EXPECTED = ("expect", "reference")  # as in `expectations` and `reference_outputs`
_DATA_SET_ENTRY = "doc"  # of lm-eval: a question, and the answer that is right
_LAST_RANK = 1000


def plain(name: str) -> str:
    """Return a name without case, spaces and punctuation; of a long text, only the beginning."""
    folded = unicodedata.normalize("NFKC", name[:_LONGEST_NAME]).casefold()
    return "".join(character for character in folded if character.isalnum())


_PLAIN_FIELDS = {plain(field): field for field in sorted(FIELDS)}
_PLAIN_ALIASES = {field: [plain(alias) for alias in names] for field, names in _ALIASES.items()}


def near_field(column: str) -> str | None:
    """Return the field that a column's name misspells, or writes in another case."""
    near = difflib.get_close_matches(plain(column), _PLAIN_FIELDS, n=1, cutoff=_NEAR)
    return _PLAIN_FIELDS[near[0]] if near else None


def alias_field(column: str) -> str | None:
    """Return the field for which a column's name is another word."""
    name = plain(column)
    return next((field for field, names in _PLAIN_ALIASES.items() if name in names), None)


def near_name(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant."""
    by_plain = {plain(one): one for one in names}
    near = difflib.get_close_matches(plain(name), by_plain, n=1)
    return by_plain[near[0]] if near else None


def suggested_columns(columns: Mapping[str, Any], filled: Collection[str]) -> dict[str, str]:
    """Return a column for each field that is not filled and that some column may be meant for.

    `columns` maps each column to a value of it. Columns that have one come first.
    """
    taken: dict[str, str] = {}
    for column, value in columns.items():
        if is_conversation(value) and not {*filled, *taken} & {"turns"}:
            taken["turns"] = column
    meanings = [
        (value is None, *meaning, column)
        for column, value in columns.items()
        if column not in taken.values() and (meaning := _meaning(column))
    ]
    for _, _, field, column in sorted(meanings, key=lambda one: one[:2]):
        value = columns[column]
        if field in filled or field in taken:
            continue
        if fits(field, value):
            taken[field] = column
        elif field in TEXTS and (path := _first_text(value)):
            taken[field] = f"{column}.{path}"
    # The only answer of a file is what its user wants to have evaluated.
    if "expected_output" in taken and not {*filled, *taken} & {"response", "turns"}:
        taken["response"] = taken.pop("expected_output")
    return {field: taken[field] for field in (*_ALIASES, *sorted(FIELDS)) if field in taken}


def _first_text(value: Any) -> str | None:
    """Return the path of the first of several answers, which may be the choices of a model."""
    match value:
        case [str(), *_]:
            return "0"
        case [{"message": {"content": str()}}, *_]:
            return "0.message.content"
    return None


def meant_field(column: str) -> str | None:
    """Return the field that a column may be meant for, by its name and by that of its object."""
    meaning = _meaning(column)
    return meaning[1] if meaning else None


def _meaning(column: str) -> tuple[int, str] | None:
    """Return the field that a column may be meant for, after its rank among others for it."""
    *parents, name = column.split(".")
    outer = [known for parent in parents if (known := _meaning_of_object(parent))]
    if plain(name) in _TEXT_NAMES and outer and outer[-1][1] in _WITH_TEXT:
        return outer[-1]
    own = _known(column) or _known(name)
    is_expected = _DATA_SET_ENTRY in parents or any(
        field == "expected_output" for _, field in outer
    )
    if is_expected and own and own[1] == "response":
        return _LAST_RANK, "expected_output"
    return own


def _meaning_of_object(name: str) -> tuple[int, str] | None:
    if known := _known(name):
        return known
    return (0, "expected_output") if plain(name).startswith(_EXPECTED) else None


def _known(name: str) -> tuple[int, str] | None:
    if field := alias_field(name):
        return _PLAIN_ALIASES[field].index(plain(name)), field
    field = near_field(name)
    return (-1, field) if field else None


def is_conversation(value: Any) -> bool:
    """Return whether a value is a list of messages with their roles."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(part, dict) and "role" in part for part in value)


def fits(field: str, value: Any) -> bool:
    """Return whether a field can hold a value like this one; None may be anything."""
    if value is None:
        return True
    if field == "turns":
        return isinstance(value, str) or is_conversation(value)
    if field in JSON_FIELDS:
        return isinstance(value, str | list)
    return isinstance(value, str | int | float)
