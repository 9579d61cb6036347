"""Keep answering jobs: what kind of job a job is, and which table it answers."""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'answerings',
        sa.Column('job_id', sa.String(length=16), nullable=False),
        sa.Column('prefix_id', sa.String(length=16), nullable=False),
        sa.Column('prefix_name', sa.String(length=80), nullable=False),
        sa.Column('uses_prefix', sa.Boolean(), nullable=False),
        sa.Column('file_name', sa.String(length=200), nullable=False),
        sa.Column('table_hash', sa.String(length=64), nullable=False),
        sa.Column('columns', sa.JSON(), nullable=False),
        sa.Column('num_rows', sa.Integer(), nullable=False),
        sa.Column('detected', sa.JSON(none_as_null=True), nullable=False),
        sa.Column('mapping', sa.JSON(none_as_null=True), nullable=False),
        sa.Column('settings', sa.JSON(none_as_null=True), nullable=False),
        sa.Column('answer_column', sa.String(length=200), nullable=False),
        sa.Column('result_hash', sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_answerings_job_id_jobs'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('job_id', name=op.f('pk_answerings')),
    )
    with op.batch_alter_table('answerings', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_answerings_prefix_id'), ['prefix_id'], unique=False)
    kind = sa.Enum('TRAINING', 'ANSWERING', name='jobkind', native_enum=False, length=16)
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('kind', kind, server_default='TRAINING', nullable=False))


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_column('kind')
    with op.batch_alter_table('answerings', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_answerings_prefix_id'))
    op.drop_table('answerings')
