from piscope.api import ExitsResult as ExitsResult
from piscope.api import Result as Result
from piscope.api import analyze as analyze
from piscope.api import exits as exits
from piscope.errors import PiscopeError as PiscopeError

__version__: str
