"""Keep a report and the origin of each version."""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('dataset_versions', schema=None) as batch_op:
        batch_op.add_column(sa.Column('report', sa.JSON(none_as_null=True), server_default='{}', nullable=False))
        batch_op.add_column(sa.Column('origin', sa.JSON(none_as_null=True), server_default='{}', nullable=False))


def downgrade() -> None:
    with op.batch_alter_table('dataset_versions', schema=None) as batch_op:
        batch_op.drop_column('origin')
        batch_op.drop_column('report')
