"""Tools of an online shop with Chinese descriptions: search, basket, orders, coupons. The stock is in memory only."""

from typing import Any, Literal

from swift import read_only

_PRODUCTS: dict[str, dict[str, Any]] = {
    "P1001": {"name": "蓝牙耳机", "price": 199.0, "stock": 40, "sales": 820, "rating": 4.6},
    "P1002": {"name": "纯棉毛巾", "price": 25.0, "stock": 300, "sales": 2300, "rating": 4.8},
    "P1003": {"name": "不锈钢保温杯", "price": 69.0, "stock": 120, "sales": 1500, "rating": 4.7},
    "P1004": {"name": "辣条礼包", "price": 39.9, "stock": 0, "sales": 5100, "rating": 4.2},
    "P1005": {"name": "头戴式蓝牙耳机", "price": 329.0, "stock": 15, "sales": 260, "rating": 4.9},
    "P1006": {"name": "矿泉水", "price": 2.5, "stock": 900, "sales": 7000, "rating": 4.5},
    "P1007": {"name": "玻璃花瓶", "price": 58.0, "stock": 33, "sales": 190, "rating": 4.3},
    "P1008": {"name": "折叠雨伞", "price": 45.0, "stock": 75, "sales": 640, "rating": 4.4},
    "P1009": {"name": "跑步鞋", "price": 269.0, "stock": 52, "sales": 410, "rating": 4.1},
    "P1010": {"name": "双人帐篷", "price": 399.0, "stock": 8, "sales": 95, "rating": 4.6},
    "P1011": {"name": "电饭煲", "price": 259.0, "stock": 20, "sales": 730, "rating": 4.7},
}
_BASKET = {"P1003": 2, "P1005": 1, "P1008": 1}
_ORDERS: dict[str, dict[str, Any]] = {
    "D20412": {"items": {"P1007": 1, "P1001": 1}, "status": "已签收"},
    "D20413": {"items": {"P1009": 2}, "status": "已签收"},
    "D20414": {"items": {"P1002": 4, "P1010": 1}, "status": "已签收"},
    "D20415": {"items": {"P1011": 1}, "status": "运输中,已到武汉转运中心"},
    "D20416": {"items": {"P1008": 1}, "status": "已揽收"},
    "D20417": {"items": {"P1002": 2}, "status": "待发货"},
    "D20418": {"items": {"P1001": 1}, "status": "待发货"},
}
_COUPONS: dict[str, dict[str, Any]] = {
    "SAVE30": {"off": 30.0, "status": "usable"},
    "SPRING5": {"off": 5.0, "status": "expired"},
    "HELLO10": {"off": 10.0, "status": "used"},
}
_CLAIMABLE = {"MEMBER25": 25.0, "NEWYEAR15": 15.0, "WINTER20": 20.0}


def _product(product_id: str) -> dict[str, Any]:
    if product_id not in _PRODUCTS:
        raise ValueError(f"没有商品 {product_id}")
    return _PRODUCTS[product_id]


def _order(order_id: str) -> dict[str, Any]:
    if order_id not in _ORDERS:
        raise ValueError(f"没有订单 {order_id}")
    return _ORDERS[order_id]


def _total() -> float:
    return sum(_product(product_id)["price"] * number for product_id, number in _BASKET.items())


@read_only
def search_products(
    keyword: str,
    min_price: float | None = None,
    max_price: float | None = None,
    sort: Literal["price_asc", "price_desc", "sales", "rating"] | None = None,
) -> list[dict[str, Any]]:
    """按关键词搜索商品。

    Args:
        keyword: 商品的名称,用用户的原词,不含价格、数量和排序要求。
        min_price: 最低价,单位元。用户没提就不填。
        max_price: 最高价,单位元。用户没提就不填。
        sort: 排序方式:price_asc 价格从低到高,price_desc 价格从高到低,sales 按销量,rating 按评分。用户没提就不填。
    """
    found = [
        {"product_id": product_id, **product}
        for product_id, product in _PRODUCTS.items()
        if keyword in product["name"]
        and (min_price is None or product["price"] >= min_price)
        and (max_price is None or product["price"] <= max_price)
    ]
    if sort is not None:
        field = "price" if sort.startswith("price") else sort
        found.sort(key=lambda product: float(product[field]), reverse=sort != "price_asc")
    return found


@read_only
def get_product(product_id: str) -> dict[str, Any]:
    """查看一件商品的详情:名称、价格、库存、销量和评分。

    Args:
        product_id: 商品编号,字母 P 加四位数字。
    """
    return _product(product_id)


@read_only
def view_basket() -> dict[str, Any]:
    """查看购物车里的商品、数量和总价。"""
    return {"items": _BASKET, "total": _total()}


def add_to_basket(product_id: str, quantity: int = 1) -> dict[str, int]:
    """把商品加入购物车。购物车里已有这件商品时,在原有数量上增加。

    Args:
        product_id: 商品编号,字母 P 加四位数字。
        quantity: 增加的件数。用户没说数量就不填。
    """
    number = _BASKET.get(product_id, 0) + quantity
    if quantity < 1 or number > _product(product_id)["stock"]:
        raise ValueError(f"{product_id} 不能加入 {quantity} 件:库存 {_product(product_id)['stock']} 件")
    _BASKET[product_id] = number
    return _BASKET


def set_basket_quantity(product_id: str, quantity: int) -> dict[str, int]:
    """修改购物车里已有商品的数量。

    Args:
        product_id: 商品编号,字母 P 加四位数字。
        quantity: 修改后的总件数,至少为 1。
    """
    if product_id not in _BASKET:
        raise ValueError(f"购物车里没有 {product_id}")
    if not 1 <= quantity <= _product(product_id)["stock"]:
        raise ValueError(f"{product_id} 的数量不能改为 {quantity}:库存 {_product(product_id)['stock']} 件")
    _BASKET[product_id] = quantity
    return _BASKET


def remove_from_basket(product_id: str) -> dict[str, int]:
    """把一件商品从购物车里整个删除。

    Args:
        product_id: 商品编号,字母 P 加四位数字。
    """
    if product_id not in _BASKET:
        raise ValueError(f"购物车里没有 {product_id}")
    del _BASKET[product_id]
    return _BASKET


def place_order(
    address: Literal["home", "office"], payment: Literal["alipay", "wechat", "card"], coupon_code: str | None = None
) -> dict[str, Any]:
    """给购物车里的全部商品下单并付款。

    Args:
        address: 收货地址:home 家,office 公司。
        payment: 付款方式:alipay 支付宝,wechat 微信,card 银行卡。
        coupon_code: 要使用的优惠券代码,大写字母加数字。用户没提就不填。
    """
    if not _BASKET:
        raise ValueError("购物车是空的")
    off = 0.0
    if coupon_code is not None:
        if _COUPONS.get(coupon_code, {}).get("status") != "usable":
            raise ValueError(f"优惠券 {coupon_code} 不能使用")
        off = _COUPONS[coupon_code]["off"]
        _COUPONS[coupon_code]["status"] = "used"
    order_id = f"D{max(int(each[1:]) for each in _ORDERS) + 1}"
    paid = max(_total() - off, 0.0)
    _ORDERS[order_id] = {"items": dict(_BASKET), "status": "待发货", "address": address, "payment": payment}
    for product_id, number in _BASKET.items():
        _PRODUCTS[product_id]["stock"] -= number
    _BASKET.clear()
    return {"order_id": order_id, "paid": paid}


def cancel_order(
    order_id: str, reason: Literal["changed_mind", "wrong_address", "found_cheaper", "too_slow"] | None = None
) -> str:
    """取消还没有发货的订单。

    Args:
        order_id: 订单号,字母 D 加五位数字;用户只说数字时补上 D。
        reason: 原因:changed_mind 不想要了,wrong_address 地址错误,found_cheaper 别处更便宜,too_slow 发货太慢。
            用户没提就不填。
    """
    order = _order(order_id)
    if order["status"] != "待发货":
        raise ValueError(f"订单 {order_id} {order['status']},不能取消")
    order.update(status="已取消", reason=reason)
    return f"订单 {order_id} 已取消"


@read_only
def delivery_status(order_id: str) -> dict[str, str]:
    """查询订单的物流状态。

    Args:
        order_id: 订单号,字母 D 加五位数字;用户只说数字时补上 D。
    """
    return {"order_id": order_id, "status": _order(order_id)["status"]}


def request_return(
    order_id: str,
    product_id: str,
    reason: Literal["damaged", "wrong_item", "wrong_size", "not_wanted"],
    quantity: int | None = None,
) -> str:
    """为已签收订单里的一件商品申请退货。

    Args:
        order_id: 订单号,字母 D 加五位数字;用户只说数字时补上 D。
        product_id: 商品编号,字母 P 加四位数字。
        reason: 原因:damaged 破损或故障,wrong_item 发错货,wrong_size 尺码不合适,not_wanted 不喜欢或不想要。
        quantity: 退货的件数。不填就退这件商品的全部件数。
    """
    order = _order(order_id)
    bought = order["items"].get(product_id, 0)
    number = bought if quantity is None else quantity
    if order["status"] != "已签收" or not 1 <= number <= bought:
        raise ValueError(f"订单 {order_id} ({order['status']}) 里的 {product_id} 不能退 {number} 件")
    order["items"][product_id] -= number
    return f"已申请退货:订单 {order_id},{product_id},{number} 件,原因 {reason}"


@read_only
def list_coupons(status: Literal["usable", "used", "expired"] | None = None) -> dict[str, dict[str, Any]]:
    """列出用户名下的优惠券。

    Args:
        status: 只列出这种状态的券:usable 现在可用,used 已使用,expired 已过期。不填就列出全部。
    """
    return {code: coupon for code, coupon in _COUPONS.items() if status in (None, coupon["status"])}


def claim_coupon(code: str) -> str:
    """领取一张优惠券,放到用户名下。

    Args:
        code: 优惠券代码,大写字母加数字。
    """
    if code not in _CLAIMABLE or code in _COUPONS:
        raise ValueError(f"优惠券 {code} 不能领取")
    _COUPONS[code] = {"off": _CLAIMABLE[code], "status": "usable"}
    return f"已领取 {code},减 {_CLAIMABLE[code]} 元"
