"""The embedded toy city: a procedural town with known poses, rendered on the CPU and written in the field's own formats.

`ensure(TOY, "places")` returns a folder in the format of GSV-Cities; see plan.py for the other subsets.
"""

from vpr_lib.toycity.city import CITY, TOY, ToyCitySpec, street_polylines
from vpr_lib.toycity.contact import contact_sheet
from vpr_lib.toycity.export import ensure, spec_hash
from vpr_lib.toycity.plan import SUBSETS

__all__ = ["CITY", "SUBSETS", "TOY", "ToyCitySpec", "contact_sheet", "ensure", "spec_hash", "street_polylines"]
