"""All tables in one place, so that a row finds the table of what it refers to whichever module was imported first."""

from storage.schema.answering import Answering
from storage.schema.base import Base
from storage.schema.base_model import BaseModel
from storage.schema.comparison import Comparison, Vote
from storage.schema.dataset import Dataset, DatasetVersion
from storage.schema.job import Checkpoint, Job, JobEvent
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot

TABLES = (BaseModel, Dataset, DatasetVersion, Job, JobEvent, Checkpoint, Prefix, Answering, Comparison, Vote, Snapshot)
METADATA = Base.metadata
