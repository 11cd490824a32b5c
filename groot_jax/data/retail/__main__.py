"""python -m groot_jax.data.retail --count=200000 > queries.txt"""

from groot_jax.data.retail.queries import main
from groot_jax.errors import exit_on_user_error

exit_on_user_error(main)
