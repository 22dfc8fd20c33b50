"""Runs the migrations on the connection that `migrate.upgrade` gives."""

from alembic import context

from offnominal.station.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
context.run_migrations()
