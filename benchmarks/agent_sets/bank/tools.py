"""A bank: three accounts of one customer, transfers, standing orders, cards and exchange rates, in this process."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from swift import read_only

Account = Literal["checking", "savings", "joint"]
Currency = Literal["EUR", "USD", "GBP", "SEK", "NOK", "CHF", "JPY"]
Amount = Annotated[float, Field(gt=0)]
LastDigits = Annotated[str, Field(pattern=r"^\d{4}$")]

_balances: dict[Account, float] = {"checking": 2480.15, "savings": 11250.0, "joint": 1930.4}
_transactions: list[tuple[Account, float, str]] = [
    ("checking", 2150.0, "salary"),
    ("checking", -61.3, "groceries"),
    ("joint", -39.9, "internet"),
    ("joint", 400.0, "from checking"),
    ("savings", 12.8, "interest"),
]
_blocked: dict[str, str | None] = {"4410": None, "0093": None, "7725": None}
_limits: dict[str, float] = dict.fromkeys(_blocked, 1500.0)
_orders: dict[str, str] = {
    "SO-2": "35 EUR monthly to the sports club",
    "SO-3": "12 EUR monthly to a newspaper",
    "SO-7": "49 EUR monthly to the yoga studio",
}
_EUROS: dict[Currency, float] = {
    "EUR": 1.0, "USD": 0.92, "GBP": 1.17, "SEK": 0.088, "NOK": 0.086, "CHF": 1.05, "JPY": 0.0061
}  # fmt: skip
"""Fixed rates: the euros that one unit of a currency is worth."""


@dataclass
class Recipient:
    """Who gets money at another bank: the name, and the IBAN without spaces."""

    name: str
    iban: Annotated[str, Field(pattern=r"^[A-Z]{2}\d{2}[A-Z0-9]{11,30}$", description="The IBAN without spaces.")]


@read_only
def get_balance(account: Account) -> str:
    """Tell how much money is in one of the user's accounts.

    Args:
        account: The account.
    """
    return f"{account}: {_balances[account]:.2f} EUR"


@read_only
def list_transactions(
    account: Account,
    direction: Literal["in", "out"] | None = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
) -> list[str]:
    """List the past transactions of an account, the newest first.

    Args:
        account: The account.
        direction: Only money that came in or only money that went out; leave it out for both.
        limit: How many at most; leave it out if the user names no number.
    """
    found = [
        f"{amount:+.2f} EUR, {what}"
        for where, amount, what in reversed(_transactions)
        if where == account and (direction is None or (direction == "in") == (amount > 0))
    ]
    return found[:limit]


def move_money(source: Account, target: Account, euros: Amount) -> str:
    """Move money between two accounts of the user.

    Args:
        source: The account that the money leaves.
        target: The account that the money arrives in.
        euros: The amount in euros.
    """
    if source == target:
        raise ValueError("source and target are the same account")
    _take(source, euros, f"to {target}")
    _balances[target] += euros
    _transactions.append((target, euros, f"from {source}"))
    return f"{source}: {_balances[source]:.2f} EUR, {target}: {_balances[target]:.2f} EUR"


def send_money(recipient: Recipient, euros: Amount, source: Account | None = None, reference: str | None = None) -> str:
    """Send money once, now, to somebody else's account.

    Args:
        recipient: Who gets the money.
        euros: The amount in euros.
        source: The user's account that pays; leave it out if the user names none.
        reference: The text for the recipient, as the user gives it; leave it out if there is none.
    """
    _check_iban(recipient.iban)
    payer = source or "checking"
    _take(payer, euros, f"to {recipient.name}{f': {reference}' if reference else ''}")
    return f"{euros:.2f} EUR are on the way to {recipient.name}; {payer}: {_balances[payer]:.2f} EUR"


def create_standing_order(
    recipient: Recipient,
    euros: Amount,
    interval: Literal["monthly", "quarterly", "yearly"],
    day_of_month: Annotated[int, Field(ge=1, le=28)],
) -> str:
    """Set up a payment to somebody else's account that repeats until it is cancelled.

    Args:
        recipient: Who gets the money.
        euros: The amount of each payment in euros.
        interval: How often it is paid.
        day_of_month: The day of the month on which it is paid.
    """
    _check_iban(recipient.iban)
    order = f"SO-{max(int(each.removeprefix('SO-')) for each in [*_orders, 'SO-9']) + 1}"
    _orders[order] = f"{euros:g} EUR {interval} on day {day_of_month} to {recipient.name}"
    return f"{order}: {_orders[order]}"


@read_only
def list_standing_orders() -> dict[str, str]:
    """List the user's standing orders: the payments that repeat."""
    return _orders


def cancel_standing_order(order: str) -> str:
    """Cancel a standing order.

    Args:
        order: Its number, such as SO-12.
    """
    if order not in _orders:
        raise ValueError(f"there is no {order}; there are {', '.join(_orders) or 'none'}")
    return f"cancelled: {_orders.pop(order)}"


def block_card(card: LastDigits, reason: Literal["lost", "stolen", "damaged"]) -> str:
    """Block a card, so that nobody can pay with it.

    Args:
        card: The last four digits of its number.
        reason: What happened to it.
    """
    _blocked[_known(card)] = reason
    return f"the card {card} is blocked: {reason}"


def unblock_card(card: LastDigits) -> str:
    """Make a blocked card work again.

    Args:
        card: The last four digits of its number.
    """
    _blocked[_known(card)] = None
    return f"the card {card} works"


def set_card_limit(card: LastDigits, euros_per_day: Amount) -> str:
    """Set how much may be paid with a card in a day.

    Args:
        card: The last four digits of its number.
        euros_per_day: The limit in euros.
    """
    _limits[_known(card)] = euros_per_day
    return f"the card {card} pays up to {euros_per_day:.2f} EUR a day"


@read_only
def convert_currency(amount: Amount, source: Currency, target: Currency) -> str:
    """Calculate what an amount is worth in another currency. Moves no money.

    Args:
        amount: The amount in the currency `source`.
        source: The currency of the amount.
        target: The currency to express it in.
    """
    return f"{amount:.2f} {source} are {amount * _EUROS[source] / _EUROS[target]:.2f} {target}"


def _take(account: Account, euros: float, what: str) -> None:
    if euros > _balances[account]:
        raise ValueError(f"{account} has only {_balances[account]:.2f} EUR")
    _balances[account] -= euros
    _transactions.append((account, -euros, what))


def _known(card: str) -> str:
    if card not in _blocked:
        raise ValueError(f"the user has no card {card}, but {', '.join(_blocked)}")
    return card


def _check_iban(iban: str) -> None:
    """ISO 13616: the number that the rearranged characters make is 1 modulo 97."""
    if int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 != 1:
        raise ValueError(f"{iban} is no IBAN: a digit or letter is wrong")
