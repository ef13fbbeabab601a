"""How hypothesis runs everywhere: a busy machine is slow, which is no fault of the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("swift", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("swift")
