"""Let the index of the queue hold its order, so that a claim reads one row however many wait."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAME = "ix_jobs_status_priority_position"


def upgrade() -> None:
    op.drop_index(NAME, "jobs")
    op.create_index(NAME, "jobs", ["status", sa.text("priority DESC"), "position"])


def downgrade() -> None:
    op.drop_index(NAME, "jobs")
    op.create_index(NAME, "jobs", ["status", "priority", "position"])
