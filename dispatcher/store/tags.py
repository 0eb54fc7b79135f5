"""Tags and decisions: what a build has passed, and what people said of its stages."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select, update

from .. import model
from . import audit, statements, tables

_TAG, _DECISION = tables.tag.c, tables.decision.c
_OF_BUILDS = (
    select(tables.tag)
    .where(_TAG.build.in_(bindparam("builds", expanding=True)))
    .order_by(_TAG.id)
)


def give_tag(connection: Connection, tag: model.Tag, why: str = "") -> int | None:
    """A new tag; its number.  None: the build has it, for this config of the stage.

    None, too, if this stage run has given one before: what a person revoked stays revoked.
    One that takes the place of another needs that one revoked first.  ``why`` is for the audit:
    what a person says who gives it by hand.
    """
    fields = statements.values(tag)
    fields["serial"] = 0
    found = statements.add_numbered(connection, tables.tag, fields)
    if found is not None:
        audit.write(connection, tag.given, f"tag {tag.stage}", why, who=tag.who, build=tag.build)
    return found


def revoke_tag(connection: Connection, tag: int, *, who: str, reason: str, at: float) -> bool:
    """It counts no more, and stays; another one can be given.  False: it did not count."""
    where = (_TAG.id == tag, _TAG.revoked.is_(None))
    statement = update(tables.tag).where(*where).values(revoked=at, reason=reason, serial=_TAG.id)
    found = connection.execute(statement.returning(_TAG.build, _TAG.stage)).first()
    if found is None:
        return False
    audit.write(connection, at, f"revoke {found.stage}", reason, who=who, build=found.build)
    return True


def of_builds(connection: Connection, builds: Sequence[int]) -> list[model.Tag]:
    """All tags, revoked ones too, in the order in which they were given."""
    found: list[model.Tag] = []
    for chunk in statements.chunks(sorted(builds)):
        found += map(statements.tag, connection.execute(_OF_BUILDS, {"builds": chunk}))
    return found


def of_build(connection: Connection, build: int) -> list[model.Tag]:
    """Those of one build."""
    return of_builds(connection, [build])


def decide(connection: Connection, decision: model.Decision) -> bool:
    """What a person says of a stage of a build; the last word counts.  Whether it is new."""
    fields = statements.values(decision)
    statement = statements.new(connection.dialect.name, tables.decision).values(**fields)
    key = [_DECISION.build, _DECISION.stage]
    statement = statement.on_conflict_do_update(
        index_elements=key, set_=fields, where=_DECISION.kind != decision.kind.value
    )
    if connection.execute(statement).rowcount != 1:
        return False
    what = f"{decision.kind} {decision.stage}"
    words = (decision.reason,)
    audit.write(connection, decision.given, what, *words, who=decision.who, build=decision.build)
    return True


def decisions_of(connection: Connection, build: int) -> list[model.Decision]:
    """Those that count, by stage."""
    statement = select(tables.decision).where(_DECISION.build == build).order_by(_DECISION.stage)
    return [statements.decision(row) for row in connection.execute(statement)]
