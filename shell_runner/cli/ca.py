"""The commands ``nosejobs ca ...``, which manage the fleet's certificate authority."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import CliError, CommandGroup

if TYPE_CHECKING:
    from ..hosts.ca import IssuedCertificate


def _load_ca() -> Any:
    """Return the module ``ca``; raise :exc:`CliError` unless the extra ``fleet`` is installed."""
    try:
        from ..hosts import ca
    except ImportError as error:
        if (error.name or "").split(".")[0] != "cryptography":
            raise
        hint = "pip install 'pytest-nosejobs[fleet]'"
        raise CliError(f"this command needs the package cryptography\n  try: {hint}") from error
    return ca


_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the authority; default $NOSEJOBS_CA, else ~/.config/nosejobs/ca.",
)
_days = click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days of validity."
)
_force = click.option("--force", is_flag=True, help="Overwrite an existing file.")
_out = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File for the bundle; default NAME.pem, for a client ~/.config/nosejobs/client.pem.",
)


@click.group(cls=CommandGroup)
def ca() -> None:
    """Manage the fleet's certificate authority."""


@ca.command()
@_folder
def init(folder: Path | None) -> None:
    """Create a certificate authority."""
    module = _load_ca()
    authority = module.CertificateAuthority.create(
        folder or module.default_folder(), module.utcnow()
    )
    click.echo(
        f"created an authority in {authority.folder}; keep ca.key secret, and back up the folder"
    )
    click.echo("next: nosejobs ca issue HOST, and nosejobs ca issue --client NAME")


@ca.command()
@click.argument("name")
@click.option("--client", is_flag=True, help="Issue for a client (a controller), not for a host.")
@click.option("--address", multiple=True, help="Another name or address of the host. Repeatable.")
@_out
@_days
@_force
@_folder
def issue(
    name: str,
    client: bool,
    address: tuple[str, ...],
    out: Path | None,
    days: int,
    force: bool,
    folder: Path | None,
) -> None:
    """Issue a bundle for NAME.

    It contains a key, a certificate, the authority and the revocation list.
    """
    module = _load_ca()
    if client and address:
        raise click.UsageError("--address is for hosts only; a client has no address")
    authority = module.CertificateAuthority(folder or module.default_folder())
    path = out or _default_bundle_path(name, client)
    _refuse_to_overwrite(path, force)
    now = module.utcnow()
    if client:
        text = authority.issue_client(name, now, days)
    else:
        text = authority.issue_host(name, address, now, days)
    _write_bundle(path, text, force)
    click.echo(f"{path}: {'client' if client else 'host'} {name}, valid for {days} days")
    if not client:
        click.echo(
            f"next: copy it to the host and start there: python3 nosejobs-agent.pyz {path.name}\n"
            "      (nosejobs agent zipapp nosejobs-agent.pyz writes that file)"
        )


def _default_bundle_path(name: str, client: bool) -> Path:
    folder: Path = _load_ca().config_folder()
    return folder / "client.pem" if client else Path(f"{name}.pem")


def _refuse_to_overwrite(path: Path, force: bool) -> None:
    """Raise :exc:`CliError` if a file exists, before a certificate is issued for it."""
    if path.exists() and not force:
        raise CliError(f"{path} exists\n  try: --force, or --out another file")


def _write_bundle(path: Path, text: str, force: bool) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _load_ca().write_private_file(path, text, force)


@ca.command()
@click.argument("name")
@_out
@_days
@_force
@_folder
def renew(name: str, out: Path | None, days: int, force: bool, folder: Path | None) -> None:
    """Issue a new bundle with a new key for NAME.

    The old one stays valid until it expires.
    """
    module = _load_ca()
    authority = module.CertificateAuthority(folder or module.default_folder())
    role = authority.find_newest(name).role
    path = out or _default_bundle_path(name, role == "client")
    _refuse_to_overwrite(path, force)
    _write_bundle(path, authority.renew(name, module.utcnow(), days), force)
    click.echo(f"{path}: {role} {name}, valid for {days} days")


@ca.command()
@click.argument("name")
@_folder
def revoke(name: str, folder: Path | None) -> None:
    """Revoke all certificates of NAME."""
    module = _load_ca()
    authority = module.CertificateAuthority(folder or module.default_folder())
    count = authority.revoke(name, module.utcnow())
    click.echo(f"{name}: {count} revoked")
    click.echo(
        f"next: copy {authority.folder / 'crl.pem'} to each agent, next to its bundle (or as"
    )
    click.echo(f"      its --crl FILE); until then agents accept {name}")


@ca.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Output file; default: standard output."
)
@_folder
def crl(out: Path | None, folder: Path | None) -> None:
    """Write a new certificate revocation list."""
    module = _load_ca()
    text = module.CertificateAuthority(folder or module.default_folder()).update_crl(
        module.utcnow()
    )
    if out:
        module.write_private_file(out, text)
    else:
        click.echo(text, nl=False)


@ca.command("list")
@_folder
def list_(folder: Path | None) -> None:
    """List issued certificates and when they expire."""
    module = _load_ca()
    now = module.utcnow()
    rows = module.CertificateAuthority(folder or module.default_folder()).list_issued()
    for row in rows:
        names = f" ({', '.join(row.addresses)})" if row.addresses else ""
        click.echo(f"{row.role:6} {row.name}{names}: {_format_validity(row, now)}")
    if not rows:
        click.echo("no certificates have been issued")


def _format_validity(row: IssuedCertificate, now: Any) -> str:
    from ..remote.agent.credentials import EXPIRY_WARNING_DAYS

    end = row.not_after[:10]
    days = row.days_left(now)
    if row.revoked_at:
        return f"revoked on {row.revoked_at[:10]}"
    if days < 0:
        return f"EXPIRED on {end}"
    if days < EXPIRY_WARNING_DAYS:
        return f"EXPIRES in {days} days, on {end}: nosejobs ca renew {row.name}"
    return f"valid until {end}"
