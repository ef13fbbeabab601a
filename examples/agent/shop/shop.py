"""A small shop over HTTP, whose tools come from its own OpenAPI document: `python examples/agent/shop/shop.py`.

The shop listens on http://127.0.0.1:8100 until Ctrl-C. In another terminal, an agent uses it:

    export SWIFT_TOOL_SHOPKEY=demo-key
    swift agent run --model MODEL --tools http://127.0.0.1:8100/openapi.json \
        --task "Order two blue mugs to 1 Main Street, Oslo."

Each operation is a tool. `search_products`, `get_product`, `show_basket`, `list_orders` and `get_order` only read;
`put_into_basket`, `remove_from_basket`, `place_order` and `cancel_order` write, and `swift infer --confirm writes` asks
before each of them. Basket and orders need
the key, in the header X-Shop-Key, which `swift` takes from SWIFT_TOOL_SHOPKEY and never shows to the model. What the
shop refuses (an unknown article, more than there is in stock, an empty basket) is an error that the model reads.

Everything is kept in memory: a new start is a new shop with full stock, an empty basket and no orders.
"""

import argparse
import secrets
import threading
from typing import Annotated, Literal

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field

Category = Literal["kitchen", "desk", "garden"]


class Product(BaseModel):
    sku: str = Field(description="The article number, such as MUG-BLUE.")
    name: str
    category: Category
    price: float = Field(description="In euros.")
    stock: int


class Line(BaseModel):
    sku: str = Field(description="The article number, such as MUG-BLUE.")
    quantity: int = Field(1, ge=1, le=100)


class Basket(BaseModel):
    lines: list[Line]
    total: float = Field(description="In euros.")


class Address(BaseModel):
    address: str = Field(min_length=5, description="Where to deliver: street, number and town.")
    gift: bool = Field(False, description="Whether to wrap it as a gift.")


class Order(BaseModel):
    number: int
    lines: list[Line]
    total: float
    address: str
    gift: bool
    state: Literal["placed", "cancelled"]


PRODUCTS = (
    Product(sku="MUG-BLUE", name="Blue mug", category="kitchen", price=8.5, stock=12),
    Product(sku="MUG-RED", name="Red mug", category="kitchen", price=8.5, stock=0),
    Product(sku="PAN-24", name="Frying pan, 24 cm", category="kitchen", price=29.0, stock=5),
    Product(sku="LAMP-1", name="Desk lamp", category="desk", price=39.9, stock=3),
    Product(sku="PEN-BLUE", name="Blue pen", category="desk", price=1.2, stock=400),
    Product(sku="SPADE", name="Spade", category="garden", price=24.0, stock=7),
)


class Shop:
    """Stock, one basket and orders. Requests arrive on several threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.products = {product.sku: product.model_copy() for product in PRODUCTS}
        self.basket: dict[str, int] = {}
        self.orders: list[Order] = []

    def product(self, sku: str) -> Product:
        """Raises HTTPException 404 for an article that does not exist."""
        if sku not in self.products:
            raise HTTPException(404, f"there is no article {sku}; search_products finds articles")
        return self.products[sku]

    def order(self, number: int) -> Order:
        """Raises HTTPException 404 for an order that does not exist."""
        if not 1 <= number <= len(self.orders):
            raise HTTPException(404, f"there is no order {number}")
        return self.orders[number - 1]

    def contents(self) -> Basket:
        lines = [Line(sku=sku, quantity=quantity) for sku, quantity in self.basket.items()]
        return Basket(lines=lines, total=round(sum(self.products[each.sku].price * each.quantity for each in lines), 2))


def create_app(key: str) -> FastAPI:
    """The shop, with the key of its only customer."""
    app = FastAPI(title="Shop", version="1.0", generate_unique_id_function=lambda route: route.name)
    shop = Shop()
    header = APIKeyHeader(name="X-Shop-Key", scheme_name="ShopKey", auto_error=False)

    def customer(given: Annotated[str | None, Depends(header)]) -> None:
        if not secrets.compare_digest((given or "").encode(), key.encode()):
            raise HTTPException(401, "the key of the shop is missing or wrong")

    only_customer = [Depends(customer)]

    @app.get("/products")
    def search_products(
        words: Annotated[str, Query(description="Words in the article's name.")] = "",
        category: Category | None = None,
        max_price: Annotated[float | None, Query(description="In euros.")] = None,
        in_stock: Annotated[bool, Query(description="Only articles that can be delivered.")] = False,
    ) -> list[Product]:
        """Search the articles of the shop, or list all of them."""
        with shop.lock:
            return [
                product.model_copy()
                for product in shop.products.values()
                if all(word.rstrip("s") in product.name.lower() for word in words.lower().split())
                and category in (None, product.category)
                and (max_price is None or product.price <= max_price)
                and (product.stock or not in_stock)
            ]

    @app.get("/products/{sku}")
    def get_product(sku: str) -> Product:
        """Show one article with its price and stock."""
        with shop.lock:
            return shop.product(sku).model_copy()

    @app.get("/basket", dependencies=only_customer)
    def show_basket() -> Basket:
        """Show what is in the basket."""
        with shop.lock:
            return shop.contents()

    @app.post("/basket/lines", dependencies=only_customer)
    def put_into_basket(line: Line) -> Basket:
        """Put an article into the basket, or more of it."""
        with shop.lock:
            product, already = shop.product(line.sku), shop.basket.get(line.sku, 0)
            if already + line.quantity > product.stock:
                raise HTTPException(409, f"{product.stock} of {line.sku} are in stock, {already} are in the basket")
            shop.basket[line.sku] = already + line.quantity
            return shop.contents()

    @app.delete("/basket/lines/{sku}", dependencies=only_customer)
    def remove_from_basket(sku: str) -> Basket:
        """Remove an article from the basket."""
        with shop.lock:
            if shop.basket.pop(sku, None) is None:
                raise HTTPException(404, f"{sku} is not in the basket")
            return shop.contents()

    @app.post("/orders", status_code=201, dependencies=only_customer)
    def place_order(address: Address) -> Order:
        """Order what is in the basket, and empty the basket."""
        with shop.lock:
            basket = shop.contents()
            if not basket.lines:
                raise HTTPException(409, "the basket is empty")
            if short := next(
                (each.sku for each in basket.lines if shop.products[each.sku].stock < each.quantity), None
            ):
                raise HTTPException(409, f"{short} is no longer in stock in this quantity")
            for line in basket.lines:
                shop.products[line.sku].stock -= line.quantity
            shop.basket.clear()
            number = len(shop.orders) + 1
            shop.orders.append(Order(number=number, state="placed", **basket.model_dump(), **address.model_dump()))
            return shop.orders[-1].model_copy()

    @app.get("/orders", dependencies=only_customer)
    def list_orders() -> list[Order]:
        """List all orders."""
        with shop.lock:
            return [order.model_copy() for order in shop.orders]

    @app.get("/orders/{number}", dependencies=only_customer)
    def get_order(number: int) -> Order:
        """Show one order."""
        with shop.lock:
            return shop.order(number).model_copy()

    @app.delete("/orders/{number}", dependencies=only_customer)
    def cancel_order(number: int) -> Order:
        """Cancel an order; its articles go back into stock."""
        with shop.lock:
            order = shop.order(number)
            if order.state == "cancelled":
                raise HTTPException(409, f"order {number} is cancelled already")
            order.state = "cancelled"
            for line in order.lines:
                shop.products[line.sku].stock += line.quantity
            return order.model_copy()

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="A small shop over HTTP, described by its own OpenAPI document.")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--key", default="demo-key", help="key of the shop's customer, in the header X-Shop-Key")
    arguments = parser.parse_args()
    print(f"the shop's tools: export SWIFT_TOOL_SHOPKEY={arguments.key}, then")
    print(f"  swift agent run --model MODEL --tools http://127.0.0.1:{arguments.port}/openapi.json --task '...'")
    uvicorn.run(create_app(arguments.key), port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
