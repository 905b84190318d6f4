"""${message[:1].upper() + message[1:]}."""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Towards the newer version; the running, older one must keep working meanwhile."""
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """Back again."""
    ${downgrades if downgrades else "raise NotImplementedError"}
