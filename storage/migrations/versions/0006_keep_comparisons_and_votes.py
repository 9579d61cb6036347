"""Keep comparisons and blind votes."""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('comparisons',
    sa.Column('name', sa.String(length=80), nullable=False),
    sa.Column('base_model', sa.String(length=200), nullable=False),
    sa.Column('columns', sa.JSON(), nullable=False),
    sa.Column('request', sa.JSON(none_as_null=True), nullable=False),
    sa.Column('result', sa.JSON(none_as_null=True), nullable=False),
    sa.Column('id', sa.String(length=16), nullable=False),
    sa.Column('owner', sa.String(length=80), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_comparisons'))
    )
    with op.batch_alter_table('comparisons', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_comparisons_owner'), ['owner'], unique=False)

    op.create_table('votes',
    sa.Column('base_model', sa.String(length=200), nullable=False),
    sa.Column('first', sa.String(), nullable=False),
    sa.Column('second', sa.String(), nullable=False),
    sa.Column('winner', sa.Enum('FIRST', 'SECOND', 'TIE', name='winner', native_enum=False, length=16), nullable=False),
    sa.Column('prompt', sa.String(), nullable=False),
    sa.Column('answers', sa.JSON(), nullable=False),
    sa.Column('id', sa.String(length=16), nullable=False),
    sa.Column('owner', sa.String(length=80), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_votes'))
    )
    with op.batch_alter_table('votes', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_votes_owner'), ['owner'], unique=False)
        batch_op.create_index('ix_votes_first_second', ['first', 'second'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('votes', schema=None) as batch_op:
        batch_op.drop_index('ix_votes_first_second')
        batch_op.drop_index(batch_op.f('ix_votes_owner'))

    op.drop_table('votes')
    with op.batch_alter_table('comparisons', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_comparisons_owner'))

    op.drop_table('comparisons')
