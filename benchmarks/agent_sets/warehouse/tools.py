"""Tools of a warehouse with nested arguments: goods in, picking, transfers, counts, shipments. State is in memory."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from swift import read_only

Zone = Literal["A", "B", "C", "cold"]
Carrier = Literal["parcel", "express", "freight"]


@dataclass(frozen=True)
class Line:
    """An article and a number of pieces."""

    sku: Annotated[str, Field(description="The article number: two letters, a hyphen, three digits.")]
    quantity: Annotated[int, Field(ge=0, description="Single pieces.")]


@dataclass(frozen=True)
class Address:
    """Whom and where to deliver."""

    name: Annotated[str, Field(description="First and last name of the recipient.")]
    street: Annotated[str, Field(description="Street and house number, as the user writes them.")]
    postcode: str
    city: str
    country: Annotated[str, Field(pattern="^[A-Z]{2}$", description="Two-letter country code of ISO 3166-1.")]


@dataclass(frozen=True)
class Dimensions:
    """Outer dimensions in centimetres."""

    length_cm: Annotated[float, Field(gt=0)]
    width_cm: Annotated[float, Field(gt=0)]
    height_cm: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Package:
    """One package; several equal ones are several entries."""

    dimensions: Dimensions
    weight_kg: Annotated[float, Field(gt=0, description="Weight of this package in kilograms.")]


@dataclass(frozen=True)
class TimeWindow:
    """A span of time on one day."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$", description="YYYY-MM-DD.")]
    start: Annotated[str, Field(pattern=r"^\d\d:\d\d$", description="HH:MM, 24-hour clock.")]
    end: Annotated[str, Field(pattern=r"^\d\d:\d\d$", description="HH:MM, 24-hour clock.")]


_STOCK: dict[tuple[str, str], int] = {
    ("BX-204", "A"): 120,
    ("BX-204", "C"): 15,
    ("LB-020", "A"): 64,
    ("GL-071", "B"): 30,
    ("PP-110", "A"): 75,
    ("PP-115", "A"): 20,
    ("DR-500", "C"): 11,
    ("DR-510", "C"): 6,
    ("TP-310", "cold"): 18,
    ("TP-320", "cold"): 7,
}
_SHIPMENTS: dict[str, dict[str, Any]] = {
    "SH-9001": {"status": "delivered"},
    "SH-9002": {"status": "packed"},
    "SH-9003": {"status": "on the road"},
    "SH-9004": {"status": "packed"},
    "SH-9005": {"status": "held at customs"},
    "SH-9006": {"status": "packed", "window": TimeWindow("2026-12-08", "09:00", "11:00")},
}
_COUNTS: dict[str, dict[str, Any]] = {"SC-31": {"zone": "A"}, "SC-32": {"zone": "B"}}
_DOCKS: list[dict[str, Any]] = []
_PICKS: list[dict[str, Any]] = []
_DIMENSIONS: dict[str, dict[str, Any]] = {}
_FEES = {"parcel": 6.0, "express": 15.0, "freight": 40.0}
_FEES_PER_KG = {"parcel": 0.8, "express": 2.0, "freight": 0.3}


def _in_stock(sku: str, zone: str | None = None) -> dict[str, int]:
    return {place: number for (each, place), number in _STOCK.items() if each == sku and zone in (None, place)}


def _valid(window: TimeWindow) -> TimeWindow:
    if window.start >= window.end:
        raise ValueError(f"the window starts at {window.start} and ends at {window.end}")
    return window


def _shipment(shipment_id: str) -> dict[str, Any]:
    if shipment_id not in _SHIPMENTS:
        raise ValueError(f"no shipment {shipment_id}")
    return _SHIPMENTS[shipment_id]


@read_only
def find_stock(sku: str, zone: Zone | None = None) -> dict[str, int]:
    """Look up how many pieces of one article are in stock, by zone.

    Args:
        sku: The article number: two letters, a hyphen, three digits.
        zone: Only this zone. Leave out for all zones.
    """
    return _in_stock(sku, zone)


def record_goods_in(supplier: str, lines: list[Line], pallets: int | None = None) -> dict[str, int]:
    """Book goods that have arrived from a supplier into zone A.

    Args:
        supplier: The name of the supplier, as the user writes it.
        lines: What arrived, one entry for each article.
        pallets: The number of pallets. Leave out if it is not said.
    """
    for line in lines:
        _STOCK[line.sku, "A"] = _STOCK.get((line.sku, "A"), 0) + line.quantity
    return {line.sku: _STOCK[line.sku, "A"] for line in lines}


def schedule_goods_in(supplier: str, window: TimeWindow, dock: int | None = None) -> dict[str, Any]:
    """Reserve a dock for a delivery of a supplier that is yet to come.

    Args:
        supplier: The name of the supplier, as the user writes it.
        window: When the truck is unloaded.
        dock: The number of the dock. Leave out to get any free one.
    """
    window = _valid(window)
    busy = {
        each["dock"]
        for each in _DOCKS
        if each["window"].date == window.date
        and each["window"].start < window.end
        and window.start < each["window"].end
    }
    free = [number for number in range(1, 7) if number not in busy and dock in (None, number)]
    if not free:
        raise ValueError("no such dock is free at that time; there are docks 1 to 6")
    _DOCKS.append({"supplier": supplier, "window": window, "dock": free[0]})
    return _DOCKS[-1]


def create_pick_list(
    order_id: str, lines: list[Line], priority: Literal["normal", "urgent"] = "normal"
) -> dict[str, Any]:
    """Have the articles of a customer order picked from the shelves.

    Args:
        order_id: The customer order: SO, a hyphen, four digits.
        lines: What to pick, one entry for each article.
        priority: How soon. Leave out unless the user speaks of it.
    """
    for line in lines:
        if line.quantity > (number := sum(_in_stock(line.sku).values())):
            raise ValueError(f"{line.sku}: {line.quantity} wanted, {number} in stock")
    _PICKS.append({"order_id": order_id, "lines": lines, "priority": priority})
    return _PICKS[-1]


def transfer_stock(source: Zone, target: Zone, lines: list[Line]) -> dict[str, dict[str, int]]:
    """Move pieces from one zone of the warehouse to another.

    Args:
        source: The zone the pieces are in.
        target: The zone they go to.
        lines: What to move, one entry for each article.
    """
    for line in lines:
        if line.quantity > (number := _STOCK.get((line.sku, source), 0)):
            raise ValueError(f"{line.sku}: {line.quantity} wanted, {number} in zone {source}")
    for line in lines:
        _STOCK[line.sku, source] -= line.quantity
        _STOCK[line.sku, target] = _STOCK.get((line.sku, target), 0) + line.quantity
    return {line.sku: _in_stock(line.sku) for line in lines}


def start_stock_count(zone: Zone, skus: list[str] | None = None, blind: bool = False) -> str:
    """Open a new stock count of one zone and return its number.

    Args:
        zone: The zone to count.
        skus: Count these articles only. Leave out to count them all.
        blind: Hide the expected numbers from those who count. Leave out unless the user speaks of it.
    """
    count_id = f"SC-{max(int(each[3:]) for each in _COUNTS) + 1}"
    _COUNTS[count_id] = {"zone": zone, "skus": skus, "blind": blind}
    return count_id


def record_count(count_id: str, lines: list[Line]) -> dict[str, int]:
    """Enter what was found in a stock count that is open, and return the differences to the books.

    Args:
        count_id: The count: SC, a hyphen, two digits.
        lines: The pieces found, one entry for each article.
    """
    if count_id not in _COUNTS:
        raise ValueError(f"no count {count_id}")
    zone = _COUNTS[count_id]["zone"]
    differences = {line.sku: line.quantity - _STOCK.get((line.sku, zone), 0) for line in lines}
    _STOCK.update({(line.sku, zone): line.quantity for line in lines})
    return differences


def create_shipment(
    order_id: str, recipient: Address, carrier: Carrier, packages: list[Package], window: TimeWindow | None = None
) -> str:
    """Create the shipment of a customer order and return its number.

    Args:
        order_id: The customer order: SO, a hyphen, four digits.
        recipient: Whom and where to deliver.
        carrier: How it travels.
        packages: All packages of the shipment.
        window: When the recipient takes it. Leave out if it is not said.
    """
    shipment_id = f"SH-{max(int(each[3:]) for each in _SHIPMENTS) + 1}"
    _SHIPMENTS[shipment_id] = {
        "order_id": order_id,
        "recipient": recipient,
        "carrier": carrier,
        "packages": packages,
        "window": window and _valid(window),
        "status": "packed",
    }
    return shipment_id


@read_only
def quote_shipment(country: str, carrier: Carrier, packages: list[Package]) -> dict[str, float]:
    """Work out what a shipment would cost, in euros, without creating it.

    Args:
        country: Where to: the two-letter country code of ISO 3166-1.
        carrier: How it travels.
        packages: All packages of the shipment.
    """
    sizes = [package.dimensions for package in packages]
    volumes = [size.length_cm * size.width_cm * size.height_cm for size in sizes]
    charged_kg = sum(max(package.weight_kg, cm3 / 5000) for package, cm3 in zip(packages, volumes, strict=True))
    return {"euros": round(_FEES[carrier] + _FEES_PER_KG[carrier] * charged_kg * (1 if country == "DE" else 1.6), 2)}


@read_only
def track_shipment(shipment_id: str) -> dict[str, Any]:
    """Look up where a shipment is and what holds it up.

    Args:
        shipment_id: The shipment: SH, a hyphen, four digits.
    """
    return _shipment(shipment_id)


def change_delivery_window(shipment_id: str, window: TimeWindow) -> dict[str, Any]:
    """Change when an existing shipment is delivered to its recipient.

    Args:
        shipment_id: The shipment: SH, a hyphen, four digits.
        window: The new day and time.
    """
    shipment = _shipment(shipment_id)
    if shipment["status"] == "delivered":
        raise ValueError(f"shipment {shipment_id} is delivered")
    shipment["window"] = _valid(window)
    return shipment


def set_article_dimensions(sku: str, dimensions: Dimensions, weight_kg: float | None = None) -> dict[str, Any]:
    """Correct the dimensions of a single piece of an article in the master data.

    Args:
        sku: The article number: two letters, a hyphen, three digits.
        dimensions: Length, width and height of a piece.
        weight_kg: Weight of a piece in kilograms. Leave out if it is not said.
    """
    old = _DIMENSIONS.get(sku, {})
    _DIMENSIONS[sku] = {**old, "dimensions": dimensions} | ({} if weight_kg is None else {"weight_kg": weight_kg})
    return _DIMENSIONS[sku]
