"""Let a job wait for the end of another."""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    condition = sa.Enum('ENDED', 'SUCCEEDED', 'FAILED', name='startcondition', native_enum=False, length=16)
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('starts_after', sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column('starts_when', condition, nullable=True))
        batch_op.create_index(batch_op.f('ix_jobs_starts_after'), ['starts_after'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_jobs_starts_after'))
        batch_op.drop_column('starts_when')
        batch_op.drop_column('starts_after')
