"""What a night takes, in the words and the money of the report."""

from recsys.data_schemas.config import PricesConfig
from recsys.storage.stages.cost import processor_seconds
from recsys.training.night.usage import Usage, usage_facts

TOOK = Usage(3600.0, 7200.0, 1800.0, 5_000_000, 60_000_000_000)


def test_hours_and_bytes_without_prices():
    assert usage_facts(TOOK, PricesConfig()) == {
        "processor hours": "2.00",
        "GPU hours": "0.50",
        "processors used by other programs": "0%",
        "written tonight": "5.0 MB",
        "workspace": "60.0 GB",
    }


def test_money_is_the_sum_of_what_has_a_price():
    prices = PricesConfig(currency="CHF", processor_hour=0.05, gpu_hour=2, gb_month=0.1)
    assert usage_facts(TOOK, prices)["money"] == (
        "1.30 CHF a night (processor 0.10, GPU 1.00, storage 0.20)"
    )
    assert usage_facts(TOOK, PricesConfig(gpu_hour=2))["money"] == "1.00 EUR a night (GPU 1.00)"


def test_processor_time_is_that_of_all_threads():
    before = processor_seconds()
    sum(range(3_000_000))
    assert 0 < processor_seconds() - before < 60
