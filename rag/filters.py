"""`where`: a condition on documents in Chroma's language. The catalog evaluates it, so that all modes agree.

{"type": "pdf"}   {"year": {"$gte": 2000}}   {"document": {"$in": [...]}}   {"$or": [{...}, {...}]}
"""

import json
from pathlib import Path
from typing import Any

from .documents import DOCUMENT, Scalar, is_storable

COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ["$eq", "$ne", *COMPARISONS, "$in", "$nin"]
MAX_PARAMETERS, MAX_DEPTH = 900, 15  # below SQLite's limits of expressions
# A field that is a number; in CSV, where everything is text, also one that is written as a number.
IS_NUMBER = (
    "(typeof(field) IN ('integer', 'real') OR kind IN ('csv', 'tsv') AND typeof(field) = 'text' AND "
    "CASE WHEN json_valid(field) THEN json_type(field) IN ('integer', 'real') END)"
)


def where_sql(where: dict[str, Any], depth: int = 0) -> tuple[str, list[Scalar]]:
    """Return a condition on the table `documents`, and its parameters; ValueError if `where` is not in the language.

    As in Chroma, a document without the field is "not equal" to everything, and numbers are compared with numbers.
    """
    if not isinstance(where, dict) or not where:
        raise ValueError(f'where is {where!r:.100}; give a mapping such as {{"type": "pdf"}}.')
    parts, parameters = [], []
    for key, value in where.items():
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise ValueError(f"where: {key} takes a list of conditions, not {value!r:.100}.")
            if depth == MAX_DEPTH:
                raise ValueError("where is nested too deeply: give many values of a field with $in.")
            joint, conditions = f" {key[1:].upper()} ", [where_sql(each, depth + 1) for each in value]
        elif not isinstance(key, str) or key.startswith("$") or '"' in key:
            remedy = f"join conditions by $and or $or, and compare fields by {', '.join(OPERATORS)}"
            raise ValueError(f"where: there is no field {key!r}; {remedy}.")
        elif value == {}:
            raise ValueError(f"where: {key} has an empty condition.")
        else:
            comparisons = value if isinstance(value, dict) else {"$eq": value}
            joint, conditions = " AND ", [_condition(key, *comparison) for comparison in comparisons.items()]
        parts.append("(" + joint.join(sql for sql, _ in conditions) + ")")
        parameters += [parameter for _, given in conditions for parameter in given]
    if len(parameters) > MAX_PARAMETERS:
        raise ValueError("where has too many conditions: give many values of a field with $in.")
    return "(" + " AND ".join(parts) + ")", parameters


def _condition(key: str, operator: str, operand: Any) -> tuple[str, list[Scalar]]:
    if operator not in OPERATORS:
        raise ValueError(f"where: there is no operator {operator!r}; give one of {', '.join(OPERATORS)}.")
    takes_list = operator in ("$in", "$nin")
    values = operand if takes_list else [operand]
    if not isinstance(values, list) or not values or not all(isinstance(each, Scalar) for each in values):
        what = "a list of values" if takes_list else "text, a number or a boolean"
        raise ValueError(f"where: {key} {operator} takes {what}, not {operand!r:.100}.")
    if operator in COMPARISONS and isinstance(operand, str):
        raise ValueError(f"where: {key} {operator} compares numbers, not {operand!r:.100}.")
    if not all(map(is_storable, values)):
        raise ValueError(f"where: {key} {operator}: no document has a number that is not finite or above 64 bits.")
    negation = "NOT " if operator in ("$ne", "$nin") else ""
    if operator in COMPARISONS:
        test, given = f"{IS_NUMBER} AND field + 0 {COMPARISONS[operator]} ?", [operand]
    elif key == DOCUMENT:
        paths = [(Path.cwd() / value).as_posix() for value in values if isinstance(value, str)]  # as search prints them
        return f"documents.name {negation}IN (SELECT value FROM json_each(?))", [json.dumps(values + paths)]
    else:
        among, given = "IN (SELECT value FROM json_each(?))", [json.dumps(values)] * 2  # SQLite takes few parameters
        test = f"(field {among} OR {IS_NUMBER} AND field + 0 {among})"
    fields = "SELECT json_extract(metadata, ?) AS field, json_extract(metadata, '$.type') AS kind"
    return f"{negation}EXISTS (SELECT 1 FROM ({fields}) WHERE {test})", [f'$."{key}"', *given]
