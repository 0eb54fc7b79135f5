"""Queries and updates of tags and of people's decisions on stages."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select, update

from .. import model
from . import audit, row_mapping, tables

_TAG, _DECISION = tables.tag.c, tables.decision.c
_BY_BUILDS = (
    select(tables.tag).where(_TAG.build.in_(bindparam("builds", expanding=True))).order_by(_TAG.id)
)


def grant_tag(connection: Connection, tag: model.Tag, reason: str = "") -> int | None:
    """Add a tag and return its id; None if the build has it for this config of the stage.

    Also None if this stage run has granted a tag before: a tag that a person revoked stays revoked.
    A tag that replaces another one can be granted only after that one was revoked.  ``reason`` is
    for the audit log, if a person grants the tag by hand.
    """
    fields = row_mapping.column_values(tag)
    fields["serial"] = 0
    number = row_mapping.insert_numbered_if_absent(connection, tables.tag, fields)
    if number is not None:
        audit.write(
            connection, tag.granted_at, f"tag {tag.stage}", reason, actor=tag.actor, build=tag.build
        )
    return number


def revoke_tag(connection: Connection, tag: int, *, actor: str, reason: str, at: float) -> bool:
    """Revoke a tag; its row is kept, and another one can be granted.

    Return False if it had been revoked before.
    """
    where = (_TAG.id == tag, _TAG.revoked_at.is_(None))
    statement = (
        update(tables.tag)
        .where(*where)
        .values(revoked_at=at, revocation_reason=reason, serial=_TAG.id)
    )
    row = connection.execute(statement.returning(_TAG.build, _TAG.stage)).first()
    if row is None:
        return False
    audit.write(connection, at, f"revoke {row.stage}", reason, actor=actor, build=row.build)
    return True


def list_by_builds(connection: Connection, builds: Sequence[int]) -> list[model.Tag]:
    """Return all tags of several builds, revoked ones too, in the order of their creation."""
    all_tags: list[model.Tag] = []
    for chunk in row_mapping.split_into_parameters(sorted(builds)):
        all_tags += map(row_mapping.tag_from_row, connection.execute(_BY_BUILDS, {"builds": chunk}))
    return all_tags


def list_by_build(connection: Connection, build: int) -> list[model.Tag]:
    """Return all tags of a build, revoked ones too, in the order of their creation."""
    return list_by_builds(connection, [build])


def record_decision(connection: Connection, decision: model.Decision) -> bool:
    """Record a decision in place of the previous one on this stage.  Return whether it is new."""
    fields = row_mapping.column_values(decision)
    statement = row_mapping.insert_with_conflict_clause(
        connection.dialect.name, tables.decision
    ).values(**fields)
    key = [_DECISION.build, _DECISION.stage]
    statement = statement.on_conflict_do_update(
        index_elements=key, set_=fields, where=_DECISION.kind != decision.kind.value
    )
    if connection.execute(statement).rowcount != 1:
        return False
    audit.write(
        connection,
        decision.decided_at,
        f"{decision.kind} {decision.stage}",
        decision.reason,
        actor=decision.actor,
        build=decision.build,
    )
    return True


def list_decisions(connection: Connection, build: int) -> list[model.Decision]:
    """Return the last decision on each stage of a build, by stage."""
    statement = select(tables.decision).where(_DECISION.build == build).order_by(_DECISION.stage)
    return [row_mapping.decision_from_row(row) for row in connection.execute(statement)]
