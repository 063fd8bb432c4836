"""UTM metres to degrees on WGS 84, for the data sets whose file names carry latitude and longitude."""

import math

_A, _F = 6378137.0, 1 / 298.257223563
_N = _F / (2 - _F)
_RECTIFYING_RADIUS = _A / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
_BETA = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96,
    _N**2 / 48 + _N**3 / 15,
    17 * _N**3 / 480,
)
_DELTA = (2 * _N - 2 * _N**2 / 3 - 2 * _N**3, 7 * _N**2 / 3 - 8 * _N**3 / 5, 56 * _N**3 / 15)
_SCALE, _FALSE_EASTING = 0.9996, 500_000.0


def utm_to_degrees(east: float, north: float, zone: int) -> tuple[float, float]:
    """Latitude and longitude of a point of the northern hemisphere, better than a millimetre within its zone.

    Krüger's series to third order in the flattening (Karney, J. Geodesy 2011, eq. 11 and 36).
    """
    xi, eta = north / (_SCALE * _RECTIFYING_RADIUS), (east - _FALSE_EASTING) / (_SCALE * _RECTIFYING_RADIUS)
    xi0, eta0 = xi, eta
    for j, beta in enumerate(_BETA, 1):
        xi0 -= beta * math.sin(2 * j * xi) * math.cosh(2 * j * eta)
        eta0 -= beta * math.cos(2 * j * xi) * math.sinh(2 * j * eta)
    conformal = math.asin(math.sin(xi0) / math.cosh(eta0))
    latitude = conformal + sum(delta * math.sin(2 * j * conformal) for j, delta in enumerate(_DELTA, 1))
    longitude = math.radians(6 * zone - 183) + math.atan2(math.sinh(eta0), math.cos(xi0))
    return math.degrees(latitude), math.degrees(longitude)
